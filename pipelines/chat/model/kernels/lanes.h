// Products by integer lanes (AVX-512 VNNI).

#pragma once

#include "common.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include <immintrin.h>

namespace {

struct Product {
    const int8_t* x;          // (M, K)
    const float* x_scale;     // (M, K / GROUP)
    const float* x_sum;       // (M, K / GROUP): the scaled sum of each group
    const int32_t* rest;      // (M): the row that holds what rounding took from this one, or -1
    const uint8_t* weights;   // (N / BLOCK, K / GROUP, bytes of a group of a block)
    int64_t groups, outputs;
};

// 16 activations as floats.
inline __m512 floats(const float* x) { return _mm512_loadu_ps(x); }
inline __m512 floats(const at::BFloat16* x) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// One row of activations to 8 bits. Returns whether some group is lost beside a value that outweighs it.
//
// Models put huge values into a few channels of some tokens (https://arxiv.org/abs/2402.17762), beside which the rest of
// the group would round to nothing.
template <typename T>
bool quantise(const T* x, int64_t groups, int8_t* q, float* scale, float* sum) {
    bool lost = false;
    for (int64_t g = 0; g < groups; ++g, x += GROUP, q += GROUP) {
        const __m512 low = floats(x), high = floats(x + 16);
        const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        const float power = _mm512_reduce_add_ps(_mm512_fmadd_ps(low, low, _mm512_mul_ps(high, high)));
        lost |= power - largest * largest < largest * largest * (GROUP / (OUTWEIGHS * OUTWEIGHS));
        const __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
        const __m512i q_low = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        const __m512i q_high = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtsepi32_epi8(q_low));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16), _mm512_cvtsepi32_epi8(q_high));
        scale[g] = largest / 127.0f;
        sum[g] = scale[g] * static_cast<float>(_mm512_reduce_add_epi32(_mm512_add_epi32(q_low, q_high)));
    }
    return lost;
}

// MR rows times NR blocks of outputs, into result (MR, NR * BLOCK).
template <int BITS, int MR, int NR>
void tile(const Product& p, int64_t row, int64_t block, float* result) {
    constexpr int64_t QUANTS = GROUP * BLOCK * BITS / 8, BYTES = QUANTS + 4 * BLOCK;  // then scales, then minima
    const int64_t groups = p.groups;
    const __m512i nibble = _mm512_set1_epi8(0x0F);
    __m512 sum[MR][NR];
    for (int m = 0; m < MR; ++m)
        for (int n = 0; n < NR; ++n) sum[m][n] = _mm512_setzero_ps();
    const int32_t* x[MR];
    for (int m = 0; m < MR; ++m) x[m] = reinterpret_cast<const int32_t*>(p.x + (row + m) * groups * GROUP);
    const uint8_t* weights[NR];
    for (int n = 0; n < NR; ++n) weights[n] = p.weights + (block + n) * groups * BYTES;
    for (int64_t g = 0; g < groups; ++g) {
        __m512i dot[MR][NR];
        for (int m = 0; m < MR; ++m)
            for (int n = 0; n < NR; ++n) dot[m][n] = _mm512_setzero_si512();
        for (int j = 0; j < BITS; ++j) {
            for (int n = 0; n < NR; ++n) {
                const __m512i w = _mm512_loadu_si512(weights[n] + j * 64);
                _mm_prefetch(reinterpret_cast<const char*>(weights[n] + j * 64 + AHEAD), _MM_HINT_T0);
                if constexpr (BITS == 4) {
                    const __m512i low = _mm512_and_si512(w, nibble);
                    const __m512i high = _mm512_and_si512(_mm512_srli_epi16(w, 4), nibble);
                    for (int m = 0; m < MR; ++m) {
                        dot[m][n] = _mm512_dpbusd_epi32(dot[m][n], low, _mm512_set1_epi32(x[m][g * 8 + 2 * j]));
                        dot[m][n] = _mm512_dpbusd_epi32(dot[m][n], high, _mm512_set1_epi32(x[m][g * 8 + 2 * j + 1]));
                    }
                } else {
                    for (int m = 0; m < MR; ++m)
                        dot[m][n] = _mm512_dpbusd_epi32(dot[m][n], w, _mm512_set1_epi32(x[m][g * 8 + j]));
                }
            }
        }
        for (int n = 0; n < NR; ++n) {
            const __m256i* factors = reinterpret_cast<const __m256i*>(weights[n] + QUANTS);
            const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(factors));
            const __m512 minimum = _mm512_cvtph_ps(_mm256_loadu_si256(factors + 1));
            _mm_prefetch(reinterpret_cast<const char*>(weights[n] + QUANTS + AHEAD), _MM_HINT_T0);
            weights[n] += BYTES;
            for (int m = 0; m < MR; ++m) {
                const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(p.x_scale[(row + m) * groups + g]));
                sum[m][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[m][n]), both, sum[m][n]);
                sum[m][n] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(p.x_sum[(row + m) * groups + g]), sum[m][n]);
            }
        }
    }
    for (int m = 0; m < MR; ++m)
        for (int n = 0; n < NR; ++n) _mm512_storeu_ps(result + (m * NR + n) * BLOCK, sum[m][n]);
}

template <int BITS, int MR, int NR, typename T>
void rows_by_blocks(const Product& p, int64_t row, int64_t block, T* y) {
    float result[MR * NR * BLOCK];
    tile<BITS, MR, NR>(p, row, block, result);
    for (int m = 0; m < MR; ++m) {
        if (p.rest[row + m] < 0) continue;
        float rest[NR * BLOCK];
        tile<BITS, 1, NR>(p, p.rest[row + m], block, rest);
        for (int i = 0; i < NR * BLOCK; ++i) result[m * NR * BLOCK + i] += rest[i];
    }
    const int64_t first = block * BLOCK;
    const int64_t count = std::min<int64_t>(NR * BLOCK, p.outputs - first);
    for (int m = 0; m < MR; ++m) {
        T* out = y + (row + m) * p.outputs + first;
        const float* from = result + m * NR * BLOCK;
        for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(from[i]);
    }
}

template <int BITS, int NR, typename T>
void all_rows(const Product& p, int64_t rows, int64_t block, T* y) {
    int64_t row = 0;
    for (; rows - row >= 6; row += 6) rows_by_blocks<BITS, 6, NR>(p, row, block, y);
    switch (rows - row) {
        case 5: rows_by_blocks<BITS, 5, NR>(p, row, block, y); break;
        case 4: rows_by_blocks<BITS, 4, NR>(p, row, block, y); break;
        case 3: rows_by_blocks<BITS, 3, NR>(p, row, block, y); break;
        case 2: rows_by_blocks<BITS, 2, NR>(p, row, block, y); break;
        case 1: rows_by_blocks<BITS, 1, NR>(p, row, block, y); break;
        default: break;
    }
}

template <int BITS, typename T>
void multiply(const Product& p, int64_t rows, int64_t blocks, T* y) {
    const int64_t pairs = (blocks + 1) / 2;
    at::parallel_for(0, pairs, chunk(pairs), [&](int64_t from, int64_t to) {
        for (int64_t pair = from; pair < to; ++pair) {
            if (pair * 2 + 1 < blocks)
                all_rows<BITS, 2>(p, rows, pair * 2, y);
            else
                all_rows<BITS, 1>(p, rows, pair * 2, y);
        }
    });
}

template <typename T>
void linear_of(const at::Tensor& x, Product p, int64_t bits, int64_t blocks, at::Tensor& y) {
    const int64_t rows = x.size(0), groups = p.groups;
    thread_local std::vector<int8_t> q;
    thread_local std::vector<float> scale, sum, line;
    thread_local std::vector<int32_t> rest;
    q.resize(2 * rows * groups * GROUP);
    scale.resize(2 * rows * groups);
    sum.resize(2 * rows * groups);
    rest.resize(rows);
    line.resize(groups * GROUP);
    const T* from = x.data_ptr<T>();
    int8_t* q_to = q.data();
    float* scale_to = scale.data();
    float* sum_to = sum.data();
    int32_t* rest_to = rest.data();
    const auto some = [&](int64_t first, int64_t last) {
        for (int64_t m = first; m < last; ++m)
            rest_to[m] = quantise(from + m * groups * GROUP, groups, q_to + m * groups * GROUP, scale_to + m * groups,
                                  sum_to + m * groups);
    };
    if (rows <= 32)
        some(0, rows);
    else
        at::parallel_for(0, rows, chunk(rows), some);
    int64_t all = rows;
    for (int64_t m = 0; m < rows; ++m) {
        if (!rest_to[m]) {
            rest_to[m] = -1;
            continue;
        }
        for (int64_t i = 0; i < groups * GROUP; ++i)
            line[i] = static_cast<float>(from[m * groups * GROUP + i]) -
                      scale_to[m * groups + i / GROUP] * static_cast<float>(q_to[m * groups * GROUP + i]);
        quantise(line.data(), groups, q_to + all * groups * GROUP, scale_to + all * groups, sum_to + all * groups);
        rest_to[m] = static_cast<int32_t>(all++);
    }
    p.x = q_to;
    p.x_scale = scale_to;
    p.x_sum = sum_to;
    p.rest = rest_to;
    if (bits == 4)
        multiply<4>(p, rows, blocks, y.data_ptr<T>());
    else
        multiply<8>(p, rows, blocks, y.data_ptr<T>());
}

}  // namespace

// x (..., K) times packed weights (N, K): (..., N) in x's type.
at::Tensor linear_by_lanes(const at::Tensor& input, const at::Tensor& weights, int64_t bits, int64_t outputs) {
    const int64_t inputs = input.size(-1);
    const at::Tensor x = input.reshape({-1, inputs}).contiguous();
    auto shape = input.sizes().vec();
    shape.back() = outputs;
    at::Tensor y = at::empty(shape, input.options());
    Product p{};
    p.weights = weights.data_ptr<uint8_t>();
    p.groups = inputs / GROUP;
    p.outputs = outputs;
    if (x.scalar_type() == at::kBFloat16)
        linear_of<at::BFloat16>(x, p, bits, weights.size(0), y);
    else
        linear_of<float>(x, p, bits, weights.size(0), y);
    return y;
}

#define LOQUENT_LANES
#endif
