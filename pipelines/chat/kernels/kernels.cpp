// What a decode step spends its time in, for CPUs: products with weights of 4 or 8 bits, and attention over the slots.
//
// Weights are kept in groups of 32 along the inputs as w = scale * q + minimum, q unsigned. Where the processor has
// matrix tiles (AMX) they are unpacked to bfloat16 on the way in; else activations are quantised to 8 bits in the same
// groups, so that products are integer ones (AVX-512 VNNI). Either way each row is computed alone and in the same order
// whatever shares its batch, so that a reply does not depend on its neighbours.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/cpu/vec/functional.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t GROUP = 32;   // inputs that share a scale
constexpr int64_t BLOCK = 16;   // outputs computed side by side: the lanes of a vector
constexpr float OUTWEIGHS = 16;  // times the root mean square of its group
constexpr int64_t AHEAD = 4096;  // bytes of weights fetched before they are used
constexpr int64_t FEW = 8;      // query tokens a segment may have to be attended one by one

int64_t chunk(int64_t tasks) {
    return std::max<int64_t>(1, (tasks + at::get_num_threads() - 1) / at::get_num_threads());
}

}  // namespace

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

// Processors with matrix tiles (AMX). A block of 16 outputs is unpacked to bfloat16 once, then multiplied with 16 rows
// of activations at a time: weights (16 outputs, 32 inputs) times activations (32 inputs, 16 rows).

constexpr int64_t ROWS = 16;  // of activations in a tile

struct alignas(64) TileShape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Shapes this thread's tiles while it lives, then leaves them as PyTorch's own kernels had them.
class Tiles {
public:
    Tiles() {
        _tile_storeconfig(before_);
        const TileShape shape;
        _tile_loadconfig(&shape);
    }
    ~Tiles() { _tile_loadconfig(before_); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

private:
    alignas(64) uint8_t before_[64];
};

// Whether the system lets this process use tiles.
bool tiles_allowed() {
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

// The weights of 16 outputs, each output's values of a group together, to bfloat16 (groups, 16 outputs, 32 inputs).
template <int BITS>
void unpack(const uint8_t* packed, int64_t groups, at::BFloat16* to) {
    constexpr int64_t QUANTS = GROUP * BLOCK * BITS / 8, BYTES = QUANTS + 4 * BLOCK;
    const __m512 all = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i nibble = _mm512_set1_epi16(0x0F);
    const __m512i second = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
    alignas(64) float scale[BLOCK], minimum[BLOCK];
    for (int64_t g = 0; g < groups; ++g, packed += BYTES, to += BLOCK * GROUP) {
        for (int64_t i = 0; i < BYTES; i += 64)
            _mm_prefetch(reinterpret_cast<const char*>(packed + i + AHEAD), _MM_HINT_T0);
        const __m256i* factors = reinterpret_cast<const __m256i*>(packed + QUANTS);
        _mm512_store_ps(scale, _mm512_cvtph_ps(_mm256_loadu_si256(factors)));
        _mm512_store_ps(minimum, _mm512_cvtph_ps(_mm256_loadu_si256(factors + 1)));
        if constexpr (BITS == 4) {
            // Two outputs at a time: what each of the 16 quants means is a table, in which they are looked up.
            for (int64_t o = 0; o < BLOCK; o += 2) {
                const __m512 low = _mm512_fmadd_ps(all, _mm512_set1_ps(scale[o]), _mm512_set1_ps(minimum[o]));
                const __m512 high = _mm512_fmadd_ps(all, _mm512_set1_ps(scale[o + 1]), _mm512_set1_ps(minimum[o + 1]));
                const __m512i table = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
                const __m512i quants = _mm512_cvtepu8_epi16(
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed + o * GROUP / 2)));
                const __m512i first = _mm512_or_si512(_mm512_and_si512(quants, nibble), second);
                const __m512i last = _mm512_or_si512(_mm512_srli_epi16(quants, 4), second);
                const __m512i a = _mm512_permutexvar_epi16(first, table), b = _mm512_permutexvar_epi16(last, table);
                __m256i* row = reinterpret_cast<__m256i*>(to + o * GROUP);
                _mm256_store_si256(row, _mm512_castsi512_si256(a));
                _mm256_store_si256(row + 1, _mm512_castsi512_si256(b));
                _mm256_store_si256(row + 2, _mm512_extracti64x4_epi64(a, 1));
                _mm256_store_si256(row + 3, _mm512_extracti64x4_epi64(b, 1));
            }
        } else {
            for (int64_t o = 0; o < BLOCK; ++o) {
                const __m128i* quants = reinterpret_cast<const __m128i*>(packed + o * GROUP);
                const __m512 s = _mm512_set1_ps(scale[o]), m = _mm512_set1_ps(minimum[o]);
                const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(quants)));
                const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(quants + 1)));
                const __m512bh row = _mm512_cvtne2ps_pbh(_mm512_fmadd_ps(high, s, m), _mm512_fmadd_ps(low, s, m));
                _mm512_store_si512(to + o * GROUP, reinterpret_cast<__m512i>(row));
            }
        }
    }
}

// 16 by 16, rows to columns.
inline void transpose(__m512i (&r)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; ++j) {
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xDD);
        }
    for (int j = 0; j < 8; ++j) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xDD);
    }
}

// Activations (rows, K) to (ceil(rows / 16), K / 2 pairs, 16 rows, 2), rows that are not there as zeros.
void lay_out(const at::BFloat16* x, int64_t rows, int64_t inputs, at::BFloat16* to) {
    for (int64_t row = 0; row < rows; row += ROWS)
        for (int64_t i = 0; i < inputs; i += GROUP) {
            __m512i lines[16];
            for (int64_t r = 0; r < ROWS; ++r)
                lines[r] = row + r < rows ? _mm512_loadu_si512(x + (row + r) * inputs + i) : _mm512_setzero_si512();
            transpose(lines);
            for (int64_t pair = 0; pair < 16; ++pair)
                _mm512_storeu_si512(to + row * inputs + (i / 2 + pair) * 2 * ROWS, lines[pair]);
        }
}

// One block of unpacked weights times COUNT tiles of rows, each ``next`` values behind the one before.
template <int COUNT>
void by_tiles(const at::BFloat16* weights, const at::BFloat16* x, int64_t next, int64_t groups, float* result) {
    _tile_zero(0);
    if constexpr (COUNT > 1) _tile_zero(1);
    if constexpr (COUNT > 2) _tile_zero(2);
    if constexpr (COUNT > 3) _tile_zero(3);
    for (int64_t g = 0; g < groups; ++g, weights += BLOCK * GROUP, x += GROUP * ROWS) {
        _tile_loadd(4, weights, 64);
        _tile_loadd(5, x, 64);
        _tile_dpbf16ps(0, 4, 5);
        if constexpr (COUNT > 1) {
            _tile_loadd(6, x + next, 64);
            _tile_dpbf16ps(1, 4, 6);
        }
        if constexpr (COUNT > 2) {
            _tile_loadd(7, x + 2 * next, 64);
            _tile_dpbf16ps(2, 4, 7);
        }
        if constexpr (COUNT > 3) {
            _tile_loadd(5, x + 3 * next, 64);
            _tile_dpbf16ps(3, 4, 5);
        }
    }
    _tile_stored(0, result, 64);
    if constexpr (COUNT > 1) _tile_stored(1, result + 256, 64);
    if constexpr (COUNT > 2) _tile_stored(2, result + 512, 64);
    if constexpr (COUNT > 3) _tile_stored(3, result + 768, 64);
}

inline void put(__m512 from, float* to, __mmask16 valid) { _mm512_mask_storeu_ps(to, valid, from); }
inline void put(__m512 from, at::BFloat16* to, __mmask16 valid) {
    _mm256_mask_storeu_epi16(to, valid, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(from)));
}

template <int BITS, typename T>
void multiply(const at::BFloat16* x, const uint8_t* weights, int64_t rows, int64_t groups, int64_t outputs, T* y) {
    constexpr int64_t BYTES = GROUP * BLOCK * BITS / 8 + 4 * BLOCK;
    const int64_t inputs = groups * GROUP, tiles = (rows + ROWS - 1) / ROWS, blocks = (outputs + BLOCK - 1) / BLOCK;
    at::parallel_for(0, blocks, chunk(blocks), [&](int64_t from, int64_t to) {
        const Tiles shaped;
        thread_local std::vector<at::BFloat16> space;
        space.resize(inputs * BLOCK + 32);
        auto* unpacked = reinterpret_cast<at::BFloat16*>((reinterpret_cast<uintptr_t>(space.data()) + 63) & ~uintptr_t{63});
        alignas(64) float result[4 * 256];
        for (int64_t block = from; block < to; ++block) {
            unpack<BITS>(weights + block * groups * BYTES, groups, unpacked);
            const int64_t first = block * BLOCK;
            const auto valid = static_cast<__mmask16>(0xFFFF >> (BLOCK - std::min(BLOCK, outputs - first)));
            for (int64_t tile = 0; tile < tiles; tile += 4) {
                const int64_t next = ROWS * inputs, count = std::min<int64_t>(4, tiles - tile);
                const at::BFloat16* some = x + tile * next;
                switch (count) {
                    case 1: by_tiles<1>(unpacked, some, next, groups, result); break;
                    case 2: by_tiles<2>(unpacked, some, next, groups, result); break;
                    case 3: by_tiles<3>(unpacked, some, next, groups, result); break;
                    default: by_tiles<4>(unpacked, some, next, groups, result); break;
                }
                for (int64_t t = 0; t < count; ++t) {
                    __m512i lines[16];
                    for (int64_t o = 0; o < BLOCK; ++o) lines[o] = _mm512_load_si512(result + t * 256 + o * 16);
                    transpose(lines);
                    const int64_t row = (tile + t) * ROWS, there = std::min(ROWS, rows - row);
                    for (int64_t r = 0; r < there; ++r)
                        put(_mm512_castsi512_ps(lines[r]), y + (row + r) * outputs + first, valid);
                }
            }
        }
    });
}

}  // namespace

// x (..., K) times packed weights (N, K): (..., N) in x's type.
at::Tensor linear_by_tiles(const at::Tensor& input, const at::Tensor& weights, int64_t bits, int64_t outputs) {
    const int64_t inputs = input.size(-1), rows = input.numel() / inputs;
    const at::Tensor x = input.to(at::kBFloat16).contiguous();
    auto shape = input.sizes().vec();
    shape.back() = outputs;
    at::Tensor y = at::empty(shape, input.options());
    thread_local std::vector<at::BFloat16> laid_out;
    laid_out.resize((rows + ROWS - 1) / ROWS * ROWS * inputs);
    lay_out(x.data_ptr<at::BFloat16>(), rows, inputs, laid_out.data());
    const at::BFloat16* from = laid_out.data();
    const uint8_t* packed = weights.data_ptr<uint8_t>();
    const auto run = [&](auto* to) {
        if (bits == 4)
            multiply<4>(from, packed, rows, inputs / GROUP, outputs, to);
        else
            multiply<8>(from, packed, rows, inputs / GROUP, outputs, to);
    };
    if (input.scalar_type() == at::kBFloat16)
        run(y.data_ptr<at::BFloat16>());
    else
        run(y.data_ptr<float>());
    return y;
}

#define LOQUENT_TILES tiles_allowed()
#else
#define LOQUENT_TILES false
#endif

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
at::Tensor linear(const at::Tensor& input, const at::Tensor& weights, int64_t bits, int64_t outputs) {
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

#define LOQUENT_LANES true
#else
#define LOQUENT_LANES false
#endif

namespace {

// The forms of packed weights, as quantise.py knows them; each processor's product reads one.
enum Form : int64_t { NONE = 0, LANES = 1, TILES = 2 };

Form form() {
    static const Form known = LOQUENT_TILES ? TILES : LOQUENT_LANES ? LANES : NONE;
    return known;
}

struct Heads {
    int64_t query, key, size, context;
};

// What a call attends with: scale of the scores, sliding window (0: none), cap of the scores by tanh (0: none).
struct Rule {
    double scale;
    int64_t window;
    double cap;
};

template <typename T>
struct Strided {  // (1, heads, tokens, size) with the last dimension dense
    T* data;
    int64_t head, token;
    explicit Strided(const at::Tensor& t) : data(t.data_ptr<T>()), head(t.stride(1)), token(t.stride(2)) {}
    T* at(int64_t h, int64_t n) const { return data + h * head + n * token; }
};

using Vec = at::vec::Vectorized<float>;

inline Vec load(const float* x) { return Vec::loadu(x); }
inline Vec load(const at::BFloat16* x) {
    Vec out;
    at::vec::load_fp32_from_bf16(x, out);
    return out;
}

inline float total(Vec v) {
    return at::vec::vec_reduce_all<float>([](Vec a, Vec b) { return a + b; }, v);
}

// One query token against its slot, for the query heads that share a key head. PARTS vectors make a head.
template <typename T, int PARTS>
void attend_one(const Strided<T>& q, const T* keys, const T* values, const Heads& heads, const Rule& rule, int64_t token,
                int64_t position, int64_t key_head, T* out, std::vector<float>& space) {
    constexpr int64_t LANES = Vec::size(), SIZE = PARTS * LANES;
    const int64_t shared = heads.query / heads.key;
    const int64_t from = rule.window > 0 ? std::max<int64_t>(0, position + 1 - rule.window) : 0;
    const int64_t length = position + 1 - from;
    const int64_t padded = (length + LANES - 1) / LANES * LANES;
    space.resize(padded + SIZE);
    float* scores = space.data();
    keys += from * SIZE;
    values += from * SIZE;
    for (int64_t s = 0; s < shared; ++s) {
        const T* asked = q.at(key_head * shared + s, token);
        Vec query[PARTS];
        for (int i = 0; i < PARTS; ++i) query[i] = load(asked + i * LANES) * Vec(static_cast<float>(rule.scale));
        for (int64_t j = 0; j < length; ++j) {
            Vec dot = load(keys + j * SIZE) * query[0];
            for (int i = 1; i < PARTS; ++i) dot = at::vec::fmadd(load(keys + j * SIZE + i * LANES), query[i], dot);
            scores[j] = total(dot);
        }
        std::fill(scores + length, scores + padded, -std::numeric_limits<float>::infinity());
        if (rule.cap > 0) {
            const float cap = static_cast<float>(rule.cap);
            for (int64_t j = 0; j < length; ++j) scores[j] = cap * std::tanh(scores[j] / cap);
        }
        Vec largest(-std::numeric_limits<float>::infinity());
        for (int64_t j = 0; j < padded; j += LANES) largest = at::vec::maximum(largest, Vec::loadu(scores + j));
        const Vec top(at::vec::vec_reduce_all<float>([](Vec a, Vec b) { return at::vec::maximum(a, b); }, largest));
        Vec mass(0.0f);
        for (int64_t j = 0; j < padded; j += LANES) {
            const Vec weight = (Vec::loadu(scores + j) - top).exp_u20();
            weight.store(scores + j);
            mass = mass + weight;
        }
        Vec sum[PARTS];
        for (int i = 0; i < PARTS; ++i) sum[i] = Vec(0.0f);
        for (int64_t j = 0; j < length; ++j) {
            const Vec weight(scores[j]);
            for (int i = 0; i < PARTS; ++i) sum[i] = at::vec::fmadd(weight, load(values + j * SIZE + i * LANES), sum[i]);
        }
        const Vec share(1.0f / total(mass));
        float* line = scores + padded;
        for (int i = 0; i < PARTS; ++i) (sum[i] * share).store(line + i * LANES);
        T* to = out + (key_head * shared + s) * SIZE;
        for (int64_t d = 0; d < SIZE; ++d) to[d] = static_cast<T>(line[d]);
    }
}

struct Segment {
    int64_t offset, count, slot, start;
};

// Many query tokens of one slot: plain matrix products.
void attend_many(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, const Segment& segment,
                 const Heads& heads, const Rule& rule, at::Tensor& out) {
    const int64_t shared = heads.query / heads.key, end = segment.start + segment.count;
    const int64_t from = rule.window > 0 ? std::max<int64_t>(0, segment.start + 1 - rule.window) : 0;
    const at::Tensor k = keys.select(0, segment.slot).slice(1, from, end);    // (key heads, length, size)
    const at::Tensor v = values.select(0, segment.slot).slice(1, from, end);
    const at::Tensor asked = q.select(0, 0).slice(1, segment.offset, segment.offset + segment.count);
    const at::Tensor rows = asked.reshape({heads.key, shared * segment.count, heads.size});
    at::Tensor scores = at::bmm(rows, k.transpose(1, 2)).to(at::kFloat).mul_(rule.scale);
    if (rule.cap > 0) scores = scores.div_(rule.cap).tanh_().mul_(rule.cap);
    const at::Tensor position = at::arange(segment.start, end, at::kLong).unsqueeze(1);
    const at::Tensor place = at::arange(from, end, at::kLong).unsqueeze(0);
    at::Tensor hidden = place.gt(position);
    if (rule.window > 0) hidden = hidden.logical_or_(place.le(position - rule.window));
    scores.view({heads.key, shared, segment.count, end - from})
        .masked_fill_(hidden, -std::numeric_limits<float>::infinity());
    const at::Tensor weights = at::softmax(scores, -1).to(v.scalar_type());
    const at::Tensor result = at::bmm(weights, v).view({heads.query, segment.count, heads.size});
    out.select(0, 0).slice(0, segment.offset, segment.offset + segment.count).copy_(result.transpose(0, 1));
}

bool one_by_one(const Heads& heads, const Segment& segment) {
    const int64_t parts = heads.size / Vec::size();
    const bool known = parts == 2 || parts == 4 || parts == 6 || parts == 8 || parts == 16;
    return segment.count <= FEW && known && heads.size % Vec::size() == 0;
}

template <typename T>
void attend_all(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& keys,
                const at::Tensor& values, const std::vector<Segment>& segments, const Heads& heads, const Rule& rule,
                at::Tensor& out) {
    const Strided<T> query(q), key(k), value(v);
    T* all_keys = keys.data_ptr<T>();
    T* all_values = values.data_ptr<T>();
    T* result = out.data_ptr<T>();
    const auto place = [&](int64_t slot, int64_t head, int64_t at) {
        return ((slot * heads.key + head) * heads.context + at) * heads.size;
    };
    std::vector<std::pair<int64_t, int64_t>> few;  // (segment, token in it)
    for (size_t s = 0; s < segments.size(); ++s) {
        const Segment& segment = segments[s];
        for (int64_t h = 0; h < heads.key; ++h)
            for (int64_t t = 0; t < segment.count; ++t) {
                const int64_t to = place(segment.slot, h, segment.start + t);
                std::copy_n(key.at(h, segment.offset + t), heads.size, all_keys + to);
                std::copy_n(value.at(h, segment.offset + t), heads.size, all_values + to);
            }
        if (one_by_one(heads, segment))
            for (int64_t t = 0; t < segment.count; ++t) few.emplace_back(s, t);
    }
    const int64_t tasks = static_cast<int64_t>(few.size()) * heads.key;
    at::parallel_for(0, tasks, chunk(tasks), [&](int64_t from, int64_t to) {
        thread_local std::vector<float> space;
        for (int64_t task = from; task < to; ++task) {
            const Segment& segment = segments[few[task / heads.key].first];
            const int64_t t = few[task / heads.key].second, h = task % heads.key, token = segment.offset + t;
            const T* of_keys = all_keys + place(segment.slot, h, 0);
            const T* of_values = all_values + place(segment.slot, h, 0);
            T* to_row = result + token * heads.query * heads.size;
            const int64_t position = segment.start + t;
            const auto attend = [&](auto parts) {
                attend_one<T, parts>(query, of_keys, of_values, heads, rule, token, position, h, to_row, space);
            };
            switch (heads.size / Vec::size()) {
                case 2: attend(std::integral_constant<int, 2>{}); break;
                case 4: attend(std::integral_constant<int, 4>{}); break;
                case 6: attend(std::integral_constant<int, 6>{}); break;
                case 8: attend(std::integral_constant<int, 8>{}); break;
                default: attend(std::integral_constant<int, 16>{}); break;
            }
        }
    });
    for (const Segment& segment : segments)
        if (!one_by_one(heads, segment)) attend_many(q, keys, values, segment, heads, rule, out);
}

}  // namespace

// q (1, heads, N, size), k and v (1, key heads, N, size) of N packed tokens; keys and values (slots, key heads, context,
// size), which are written at the tokens' places; segments (1 + S, 4) int32: the number of segments, then for each
// offset, count, slot and start. Returns (1, N, heads, size); tokens outside every segment get zeros.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& keys,
                     const at::Tensor& values, const at::Tensor& segments, double scale, int64_t window, double cap) {
    const Heads heads{q.size(1), k.size(1), q.size(3), keys.size(2)};
    const int32_t* table = segments.data_ptr<int32_t>();
    std::vector<Segment> all(table[0]);
    int64_t covered = 0;
    for (size_t s = 0; s < all.size(); ++s) {
        const int32_t* row = table + 4 * (s + 1);
        all[s] = {row[0], row[1], row[2], row[3]};
        covered += row[1];
    }
    at::Tensor out = covered == q.size(2) ? at::empty({1, q.size(2), heads.query, heads.size}, q.options())
                                          : at::zeros({1, q.size(2), heads.query, heads.size}, q.options());
    const auto dense = [](const at::Tensor& t) { return t.stride(-1) == 1 ? t : t.contiguous(); };
    if (q.scalar_type() == at::kBFloat16)
        attend_all<at::BFloat16>(dense(q), dense(k), dense(v), keys, values, all, heads, {scale, window, cap}, out);
    else
        attend_all<float>(dense(q), dense(k), dense(v), keys, values, all, heads, {scale, window, cap}, out);
    return out;
}

namespace {

constexpr int64_t GRAIN = 16384;  // elements worth a thread

template <typename T>
void rms_norm_of(const at::Tensor& x, const at::Tensor& weight, double eps, bool centred, at::Tensor& y) {
    const int64_t size = x.size(-1), rows = x.numel() / size;
    const T* from = x.data_ptr<T>();
    const T* factors = weight.data_ptr<T>();
    T* to = y.data_ptr<T>();
    at::parallel_for(0, rows, std::max<int64_t>(1, GRAIN / size), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const T* in = from + row * size;
            T* out = to + row * size;
            float sum = 0;
            for (int64_t i = 0; i < size; ++i) sum += static_cast<float>(in[i]) * static_cast<float>(in[i]);
            const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(size) + static_cast<float>(eps));
            if (centred)  // Gemma's: one rounding, weights around 0
                for (int64_t i = 0; i < size; ++i)
                    out[i] = static_cast<T>(static_cast<float>(in[i]) * inverse * (1.0f + static_cast<float>(factors[i])));
            else
                for (int64_t i = 0; i < size; ++i) {
                    const T normal = static_cast<T>(static_cast<float>(in[i]) * inverse);
                    out[i] = static_cast<T>(static_cast<float>(normal) * static_cast<float>(factors[i]));
                }
        }
    });
}

template <typename T>
void rotate_of(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, at::Tensor& y) {
    const int64_t heads = x.size(1), tokens = x.size(2), size = x.size(3), half = size / 2;
    const Strided<T> from(x), to(y);
    const T* c = cos.data_ptr<T>();
    const T* s = sin.data_ptr<T>();
    at::parallel_for(0, tokens, std::max<int64_t>(1, GRAIN / (heads * size)), [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n)
            for (int64_t h = 0; h < heads; ++h) {
                const T* in = from.at(h, n);
                T* out = to.at(h, n);
                for (int64_t d = 0; d < half; ++d) {
                    const float low = static_cast<float>(in[d]), high = static_cast<float>(in[d + half]);
                    out[d] = static_cast<T>(low * static_cast<float>(c[n * size + d]) - high * static_cast<float>(s[n * size + d]));
                    out[d + half] = static_cast<T>(high * static_cast<float>(c[n * size + half + d]) +
                                                   low * static_cast<float>(s[n * size + half + d]));
                }
            }
    });
}

template <typename T>
void gate_of(const at::Tensor& x, at::Tensor& y) {
    const int64_t size = y.size(-1), rows = y.numel() / size;
    const T* from = x.data_ptr<T>();
    T* to = y.data_ptr<T>();
    at::parallel_for(0, rows, std::max<int64_t>(1, GRAIN / size), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const T* gate = from + row * 2 * size;
            const T* up = gate + size;
            T* out = to + row * size;
            for (int64_t i = 0; i < size; i += Vec::size()) {
                const int64_t count = std::min<int64_t>(Vec::size(), size - i);
                float values[Vec::size()] = {};
                for (int64_t j = 0; j < count; ++j) values[j] = static_cast<float>(gate[i + j]);
                const Vec g = Vec::loadu(values);
                (g / (Vec(1.0f) + g.neg().exp_u20())).store(values);
                for (int64_t j = 0; j < count; ++j)
                    out[i + j] = static_cast<T>(values[j] * static_cast<float>(up[i + j]));
            }
        }
    });
}

template <typename F>
void by_type(const at::Tensor& x, F&& run) {
    if (x.scalar_type() == at::kBFloat16)
        run(at::BFloat16{});
    else
        run(float{});
}

}  // namespace

// x (..., size) over its root mean square, times weight, or 1 + weight if centred.
at::Tensor rms_norm(const at::Tensor& input, const at::Tensor& weight, double eps, bool centred) {
    const at::Tensor x = input.contiguous();
    at::Tensor y = at::empty_like(x);
    by_type(x, [&](auto type) { rms_norm_of<decltype(type)>(x, weight, eps, centred, y); });
    return y;
}

// x (1, heads, N, size) turned by cos and sin (1, N, size), halves together: the same shape, dense by token.
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    at::Tensor y = at::empty({1, x.size(2), x.size(1), x.size(3)}, x.options()).transpose(1, 2);
    const at::Tensor c = cos.contiguous(), s = sin.contiguous(), dense = x.stride(-1) == 1 ? x : x.contiguous();
    by_type(x, [&](auto type) { rotate_of<decltype(type)>(dense, c, s, y); });
    return y;
}

// x (..., 2 * size), gate then up: silu(gate) * up, (..., size).
at::Tensor gate(const at::Tensor& x) {
    auto shape = x.sizes().vec();
    shape.back() /= 2;
    at::Tensor y = at::empty(shape, x.options());
    by_type(x, [&](auto type) { gate_of<decltype(type)>(x, y); });
    return y;
}

TORCH_LIBRARY_IMPL(loquent, CompositeExplicitAutograd, library) {
    library.impl("form", []() -> int64_t { return form(); });
}

TORCH_LIBRARY_IMPL(loquent, CPU, library) {
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
    if (form() == TILES) library.impl("linear", linear_by_tiles);
#endif
#if defined(__AVX512F__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
    if (form() == LANES) library.impl("linear", linear);
#endif
    library.impl("attention", attention);
    library.impl("rms_norm", rms_norm);
    library.impl("rotate", rotate);
    library.impl("gate", gate);
}
