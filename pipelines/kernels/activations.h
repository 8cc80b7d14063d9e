// Activations to 8 bits (AVX-512 VNNI).

#pragma once

#include "common.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)

namespace {

// An activation that is kept out of its group, because the others would round to nothing beside it.
struct Outlier {
    int64_t input;
    float value;
};

// Where one row of activations goes.
struct Quantised {
    int8_t* x;                       // (K)
    float* scale;                    // (K / GROUP)
    float* sum;                      // (K / GROUP): the scaled sum of each group
    int32_t* total;                  // (K / GROUP, 2): the sum of each half of a group, not scaled
    std::vector<Outlier>& outliers;
};

// 16 activations as floats.
inline __m512 floats(const float* x) { return _mm512_loadu_ps(x); }
inline __m512 floats(const at::BFloat16* x) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// Takes the largest activation out of a group while it outweighs the others; returns the largest of the rest.
//
// Models put huge values into a few channels of some tokens (https://arxiv.org/abs/2402.17762).
inline float take_out(float* group, int64_t first, std::vector<Outlier>& outliers) {
    for (;;) {
        const __m512 low = _mm512_loadu_ps(group), high = _mm512_loadu_ps(group + 16);
        const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        const float power = _mm512_reduce_add_ps(_mm512_fmadd_ps(low, low, _mm512_mul_ps(high, high)));
        if (!(power - largest * largest < largest * largest * (GROUP / (OUTWEIGHS * OUTWEIGHS)))) return largest;
        const __m512 top = _mm512_set1_ps(largest);
        const uint32_t places = _mm512_cmp_ps_mask(_mm512_abs_ps(low), top, _CMP_EQ_OQ) |
                                static_cast<uint32_t>(_mm512_cmp_ps_mask(_mm512_abs_ps(high), top, _CMP_EQ_OQ)) << 16;
        const int place = __builtin_ctz(places);
        outliers.push_back({first + place, group[place]});
        group[place] = 0.0f;
    }
}

constexpr int64_t MOST_GROUPS = 16;  // that are quantised at once: one in each lane of a vector

// So many groups at most, from the one numbered ``first``; what is found out of each is found out for all at once.
template <typename T>
void quantise_groups(const T* x, int64_t first, int64_t count, const Quantised& to) {
    alignas(64) float values[MOST_GROUPS * GROUP], largest[MOST_GROUPS], inverse[MOST_GROUPS];
    alignas(64) int32_t totals[2 * MOST_GROUPS];
    __m512 tops[MOST_GROUPS], powers[MOST_GROUPS];
    for (int64_t g = 0; g < MOST_GROUPS; ++g) {
        tops[g] = powers[g] = _mm512_setzero_ps();
        if (g >= count) continue;
        const __m512 low = floats(x + g * GROUP), high = floats(x + g * GROUP + 16);
        _mm512_store_ps(values + g * GROUP, low);
        _mm512_store_ps(values + g * GROUP + 16, high);
        tops[g] = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
        powers[g] = _mm512_fmadd_ps(low, low, _mm512_mul_ps(high, high));
    }
    __m512 top = across(tops, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); });
    const __m512 power = across(powers, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
    const __m512 squared = _mm512_mul_ps(top, top);
    const __m512 least = _mm512_mul_ps(squared, _mm512_set1_ps(1 + GROUP / (OUTWEIGHS * OUTWEIGHS)));
    if (uint32_t outweighed = _mm512_cmp_ps_mask(power, least, _CMP_LT_OQ)) {
        _mm512_store_ps(largest, top);
        for (; outweighed; outweighed &= outweighed - 1) {
            const int g = __builtin_ctz(outweighed);
            largest[g] = take_out(values + g * GROUP, (first + g) * GROUP, to.outliers);
        }
        top = _mm512_load_ps(largest);
    }
    const __m512 most = _mm512_set1_ps(127.0f);
    const __mmask16 some = _mm512_cmp_ps_mask(top, _mm512_setzero_ps(), _CMP_GT_OQ);
    _mm512_store_ps(inverse, _mm512_maskz_div_ps(some, most, top));
    const __m512 scales = _mm512_div_ps(top, most);
    // Two groups at a time: 64 quants, whose products with ones are the sums of four each.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i fours[MOST_GROUPS / 2];
    for (int64_t g = 0; g < MOST_GROUPS; g += 2) {
        fours[g / 2] = _mm512_setzero_si512();
        if (g >= count) continue;
        const auto quants = [&](int64_t at, int64_t group) {
            const __m512 factor = _mm512_set1_ps(inverse[group]);
            return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(values + group * GROUP + at), factor));
        };
        const bool both = g + 1 < count;
        const __m512i none = _mm512_setzero_si512();
        const __m512i one = _mm512_packs_epi32(quants(0, g), quants(16, g));
        const __m512i other = both ? _mm512_packs_epi32(quants(0, g + 1), quants(16, g + 1)) : none;
        const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(one, other));
        _mm512_mask_storeu_epi32(to.x + g * GROUP, both ? 0xFFFF : 0x00FF, bytes);
        fours[g / 2] = _mm512_dpbusd_epi32(none, _mm512_set1_epi8(1), bytes);
    }
    for (int64_t half = 0; half < 2; ++half) {
        const __m512i* of = fours + 4 * half;
        const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(of[0], of[1]), _mm512_unpackhi_epi32(of[0], of[1]));
        const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(of[2], of[3]), _mm512_unpackhi_epi32(of[2], of[3]));
        const __m512i sums = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        _mm512_store_si512(totals + 16 * half, _mm512_permutexvar_epi32(order, sums));
    }
    const __m512i low = _mm512_load_si512(totals), high = _mm512_load_si512(totals + 16);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    const __m512i whole =
        _mm512_add_epi32(_mm512_permutex2var_epi32(low, even, high), _mm512_permutex2var_epi32(low, odd, high));
    const auto present = static_cast<__mmask16>((1u << count) - 1);
    _mm512_mask_storeu_ps(to.scale, present, scales);
    _mm512_mask_storeu_ps(to.sum, present, _mm512_mul_ps(scales, _mm512_cvtepi32_ps(whole)));
    std::copy_n(totals, 2 * count, to.total);
}

// One row of activations to 8 bits.
template <typename T>
void quantise(const T* x, int64_t groups, const Quantised& to) {
    to.outliers.clear();
    for (int64_t g = 0; g < groups; g += MOST_GROUPS)
        quantise_groups(x + g * GROUP, g, std::min(MOST_GROUPS, groups - g),
                        {to.x + g * GROUP, to.scale + g, to.sum + g, to.total + 2 * g, to.outliers});
}

}  // namespace

#endif
