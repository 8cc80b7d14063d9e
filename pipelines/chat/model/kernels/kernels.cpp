// What a decode step spends its time in, for CPUs: products with weights of 4 or 8 bits, and attention over the slots.
//
// Weights are kept in groups of 32 along the inputs as w = scale * q + minimum, q unsigned. Where the processor has
// matrix tiles (AMX) they are unpacked to bfloat16 on the way in; else activations are quantised to 8 bits in the same
// groups, so that products are integer ones (AVX-512 VNNI). Either way each row is computed alone and in the same order
// whatever shares its batch (with tiles, a row that is alone sums in another order), so that a reply does not depend on its
// neighbours.

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
        static constexpr TileShape shape;  // in memory: to the compiler the next line reads but its first bytes
        _tile_storeconfig(before_);
        _tile_loadconfig(&shape);
    }
    ~Tiles() { _tile_loadconfig(before_); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

private:
    alignas(64) uint8_t before_[64];
};

// Whether the system lets this process use tiles; it must be asked before the first of them.
bool tiles_allowed() {
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM
    static const bool allowed = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return allowed;
}

// The weights of 16 outputs, each output's values of a group together, to bfloat16. For each group g and every second
// output o, ``take(g, o, first, last)`` gets the first 16 inputs of the outputs o and o + 1, and the last 16 of them.
template <int BITS, typename Take>
inline void unpack(const uint8_t* packed, int64_t groups, Take&& take) {
    constexpr int64_t QUANTS = GROUP * BLOCK * BITS / 8, BYTES = QUANTS + 4 * BLOCK;
    const __m512 all = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i nibble = _mm512_set1_epi16(0x0F);
    const __m512i second = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
    alignas(64) float scale[BLOCK], minimum[BLOCK];
    for (int64_t g = 0; g < groups; ++g, packed += BYTES) {
        for (int64_t i = 0; i < BYTES; i += 64)
            _mm_prefetch(reinterpret_cast<const char*>(packed + i + AHEAD), _MM_HINT_T0);
        const __m256i* factors = reinterpret_cast<const __m256i*>(packed + QUANTS);
        _mm512_store_ps(scale, _mm512_cvtph_ps(_mm256_loadu_si256(factors)));
        _mm512_store_ps(minimum, _mm512_cvtph_ps(_mm256_loadu_si256(factors + 1)));
#pragma GCC unroll 8
        for (int64_t o = 0; o < BLOCK; o += 2) {
            const auto of_first = [&](__m512 q) {
                return _mm512_fmadd_ps(q, _mm512_set1_ps(scale[o]), _mm512_set1_ps(minimum[o]));
            };
            const auto of_second = [&](__m512 q) {
                return _mm512_fmadd_ps(q, _mm512_set1_ps(scale[o + 1]), _mm512_set1_ps(minimum[o + 1]));
            };
            if constexpr (BITS == 4) {  // what each of the 16 quants means is a table, in which they are looked up
                const auto table = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(of_second(all), of_first(all)));
                const __m512i quants = _mm512_cvtepu8_epi16(
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed + o * GROUP / 2)));
                const __m512i low = _mm512_or_si512(_mm512_and_si512(quants, nibble), second);
                const __m512i high = _mm512_or_si512(_mm512_srli_epi16(quants, 4), second);
                take(g, o, _mm512_permutexvar_epi16(low, table), _mm512_permutexvar_epi16(high, table));
            } else {
                const auto part = [&](int64_t at) {
                    const auto* quants = reinterpret_cast<const __m128i*>(packed + o * GROUP + at);
                    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(quants)));
                };
                const auto both = [&](int64_t at) {
                    return reinterpret_cast<__m512i>(
                        _mm512_cvtne2ps_pbh(of_second(part(GROUP + at)), of_first(part(at))));
                };
                take(g, o, both(0), both(16));
            }
        }
    }
}

// The same, into memory: (groups, 16 outputs, 32 inputs).
template <int BITS>
void unpack_to(const uint8_t* packed, int64_t groups, at::BFloat16* to) {
    unpack<BITS>(packed, groups, [&](int64_t g, int64_t o, __m512i first, __m512i last) {
        auto* row = reinterpret_cast<__m256i*>(to + (g * BLOCK + o) * GROUP);
        _mm256_store_si256(row, _mm512_castsi512_si256(first));
        _mm256_store_si256(row + 1, _mm512_castsi512_si256(last));
        _mm256_store_si256(row + 2, _mm512_extracti64x4_epi64(first, 1));
        _mm256_store_si256(row + 3, _mm512_extracti64x4_epi64(last, 1));
    });
}

// One block of weights times a single row of activations, for which a tile would be nearly empty.
template <int BITS>
void by_row(const uint8_t* weights, const at::BFloat16* x, int64_t groups, float* result) {
    __m512 sum[BLOCK / 2];
    for (auto& each : sum) each = _mm512_setzero_ps();
    const auto twice = [&](int64_t at) {
        const __m256i part = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + at));
        return reinterpret_cast<__m512bh>(_mm512_broadcast_i64x4(part));
    };
    unpack<BITS>(weights, groups, [&](int64_t g, int64_t o, __m512i first, __m512i last) {
        __m512& of = sum[o / 2];
        of = _mm512_dpbf16_ps(of, reinterpret_cast<__m512bh>(first), twice(g * GROUP));
        of = _mm512_dpbf16_ps(of, reinterpret_cast<__m512bh>(last), twice(g * GROUP + 16));
    });
    for (int64_t o = 0; o < BLOCK; o += 2) {
        result[o] = _mm512_mask_reduce_add_ps(0x00FF, sum[o / 2]);
        result[o + 1] = _mm512_mask_reduce_add_ps(0xFF00, sum[o / 2]);
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

// Some groups of one block of unpacked weights times COUNT tiles of rows, each ``next`` values behind the one before;
// added to what tiles 0 to 3 hold.
template <int COUNT>
inline void add_products(const at::BFloat16* weights, const at::BFloat16* x, int64_t next, int64_t groups) {
    asm volatile("" ::: "memory");  // what is loaded into tiles was stored: the compiler does not see them read it
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
}

constexpr int64_t MOST_TILES = 4;
constexpr int64_t NEAR = 4;  // groups unpacked at a time when they are used once: they stay in the first cache

// One block of weights, packed or, with BITS 0, unpacked already, times COUNT tiles of rows.
template <int BITS, int COUNT>
void by_tiles(const void* weights, const at::BFloat16* x, int64_t groups, float* result) {
    constexpr int64_t BYTES = GROUP * BLOCK * BITS / 8 + 4 * BLOCK;
    const int64_t next = ROWS * groups * GROUP;
    _tile_zero(0);
    if constexpr (COUNT > 1) _tile_zero(1);
    if constexpr (COUNT > 2) _tile_zero(2);
    if constexpr (COUNT > 3) _tile_zero(3);
    if constexpr (BITS == 0) {
        add_products<COUNT>(static_cast<const at::BFloat16*>(weights), x, next, groups);
    } else {
        alignas(64) at::BFloat16 near[2][NEAR * BLOCK * GROUP];
        for (int64_t g = 0; g < groups; g += NEAR) {
            const int64_t some = std::min(NEAR, groups - g);
            at::BFloat16* unpacked = near[g / NEAR % 2];
            unpack_to<BITS>(static_cast<const uint8_t*>(weights) + g * BYTES, some, unpacked);
            add_products<COUNT>(unpacked, x + g * GROUP * ROWS, next, some);
        }
    }
    _tile_stored(0, result, 64);
    if constexpr (COUNT > 1) _tile_stored(1, result + 256, 64);
    if constexpr (COUNT > 2) _tile_stored(2, result + 512, 64);
    if constexpr (COUNT > 3) _tile_stored(3, result + 768, 64);
    asm volatile("" ::: "memory");
}

template <int BITS>
void by_tiles(int64_t count, const void* weights, const at::BFloat16* x, int64_t groups, float* result) {
    switch (count) {
        case 1: by_tiles<BITS, 1>(weights, x, groups, result); break;
        case 2: by_tiles<BITS, 2>(weights, x, groups, result); break;
        case 3: by_tiles<BITS, 3>(weights, x, groups, result); break;
        default: by_tiles<BITS, 4>(weights, x, groups, result); break;
    }
}

// Two blocks of unpacked weights times two tiles of rows: each tile that is read is used twice.
void two_by_two(const at::BFloat16* weights, const at::BFloat16* x, int64_t groups, float* result) {
    const int64_t next = ROWS * groups * GROUP;
    asm volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t g = 0; g < groups; ++g, weights += BLOCK * GROUP, x += GROUP * ROWS) {
        _tile_loadd(4, weights, 64);
        _tile_loadd(5, x, 64);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(6, x + next, 64);
        _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(7, weights + next, 64);
        _tile_dpbf16ps(2, 7, 5);
        _tile_dpbf16ps(3, 7, 6);
    }
    _tile_stored(0, result, 64);
    _tile_stored(1, result + 256, 64);
    _tile_stored(2, result + 512, 64);
    _tile_stored(3, result + 768, 64);
    asm volatile("" ::: "memory");
}

inline void put(__m512 from, float* to, __mmask16 valid) { _mm512_mask_storeu_ps(to, valid, from); }
inline void put(__m512 from, at::BFloat16* to, __mmask16 valid) {
    _mm256_mask_storeu_epi16(to, valid, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(from)));
}

// A tile of results, (16 outputs, 16 rows), to its place in y, whose lines are ``outputs`` long.
template <typename T>
void put_tile(const float* result, int64_t rows, int64_t outputs, int64_t left, T* y) {
    const auto valid = static_cast<__mmask16>(0xFFFF >> (BLOCK - std::min(BLOCK, left)));
    __m512i lines[16];
    for (int64_t o = 0; o < BLOCK; ++o) lines[o] = _mm512_load_si512(result + o * 16);
    transpose(lines);
    for (int64_t r = 0; r < std::min(ROWS, rows); ++r) put(_mm512_castsi512_ps(lines[r]), y + r * outputs, valid);
}

template <int BITS, typename T>
void multiply_row(const at::BFloat16* x, const uint8_t* weights, int64_t groups, int64_t outputs, T* y) {
    constexpr int64_t BYTES = GROUP * BLOCK * BITS / 8 + 4 * BLOCK;
    const int64_t blocks = (outputs + BLOCK - 1) / BLOCK;
    at::parallel_for(0, blocks, chunk(blocks), [&](int64_t from, int64_t to) {
        for (int64_t block = from; block < to; ++block) {
            float result[BLOCK];
            by_row<BITS>(weights + block * groups * BYTES, x, groups, result);
            for (int64_t o = 0; o < std::min(BLOCK, outputs - block * BLOCK); ++o)
                y[block * BLOCK + o] = static_cast<T>(result[o]);
        }
    });
}

template <int BITS, typename T>
void multiply(const at::BFloat16* x, const uint8_t* weights, int64_t rows, int64_t groups, int64_t outputs, T* y) {
    constexpr int64_t BYTES = GROUP * BLOCK * BITS / 8 + 4 * BLOCK;
    const int64_t inputs = groups * GROUP, tiles = (rows + ROWS - 1) / ROWS, blocks = (outputs + BLOCK - 1) / BLOCK;
    const auto tile_of = [&](int64_t tile) { return x + tile * ROWS * inputs; };
    const auto keep = [&](const float* from, int64_t tile, int64_t block) {
        T* to = y + tile * ROWS * outputs + block * BLOCK;
        put_tile(from, rows - tile * ROWS, outputs, outputs - block * BLOCK, to);
    };
    at::parallel_for(0, blocks, chunk(blocks), [&](int64_t from, int64_t to) {
        const Tiles shaped;
        alignas(64) float result[MOST_TILES * 256];
        if (tiles <= MOST_TILES) {
            for (int64_t block = from; block < to; ++block) {
                by_tiles<BITS>(tiles, weights + block * groups * BYTES, tile_of(0), groups, result);
                for (int64_t tile = 0; tile < tiles; ++tile) keep(result + tile * 256, tile, block);
            }
            return;
        }
        thread_local std::vector<at::BFloat16> space;
        space.resize(2 * inputs * BLOCK + 32);
        auto* unpacked = reinterpret_cast<at::BFloat16*>((reinterpret_cast<uintptr_t>(space.data()) + 63) & ~uintptr_t{63});
        for (int64_t block = from; block < to; block += 2) {
            const int64_t count = std::min<int64_t>(2, to - block);
            unpack_to<BITS>(weights + block * groups * BYTES, count * groups, unpacked);
            int64_t tile = 0;
            for (; count == 2 && tile + 1 < tiles; tile += 2) {
                two_by_two(unpacked, tile_of(tile), groups, result);
                for (int i = 0; i < 4; ++i) keep(result + i * 256, tile + i % 2, block + i / 2);
            }
            for (; tile < tiles; ++tile)
                for (int64_t i = 0; i < count; ++i) {
                    by_tiles<0>(1, unpacked + i * inputs * BLOCK, tile_of(tile), groups, result);
                    keep(result, tile, block + i);
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
    const at::BFloat16* from = x.data_ptr<at::BFloat16>();
    const uint8_t* packed = weights.data_ptr<uint8_t>();
    thread_local std::vector<at::BFloat16> laid_out;
    if (rows > 1) {
        laid_out.resize((rows + ROWS - 1) / ROWS * ROWS * inputs);
        lay_out(from, rows, inputs, laid_out.data());
        from = laid_out.data();
    }
    const auto run = [&](auto* to) {
        if (rows == 1 && bits == 4)
            multiply_row<4>(from, packed, inputs / GROUP, outputs, to);
        else if (rows == 1)
            multiply_row<8>(from, packed, inputs / GROUP, outputs, to);
        else if (bits == 4)
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

#define LOQUENT_TILES
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

namespace {

enum Form : int64_t { LANES = 1, TILES = 2 };  // as Python's Form names them

// The forms of packed weights that this processor can multiply with, the fastest first.
std::vector<int64_t> forms() {
    std::vector<int64_t> found;
#ifdef LOQUENT_TILES
    if (tiles_allowed()) found.push_back(TILES);
#endif
#ifdef LOQUENT_LANES
    found.push_back(LANES);
#endif
    return found;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weights, int64_t form, int64_t bits, int64_t outputs) {
#ifdef LOQUENT_TILES
    if (form == TILES && tiles_allowed()) return linear_by_tiles(x, weights, bits, outputs);
#endif
#ifdef LOQUENT_LANES
    if (form == LANES) return linear_by_lanes(x, weights, bits, outputs);
#endif
    TORCH_CHECK(false, "this processor has no product with weights of form ", form);
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

inline void store(Vec from, float* to) { from.store(to); }
inline void store(Vec from, at::BFloat16* to) {
    at::vec::convert_from_float<at::BFloat16>(from, from).store(to, Vec::size());
}

inline float total(Vec v) {
    return at::vec::vec_reduce_all<float>([](Vec a, Vec b) { return a + b; }, v);
}

// The sums of 16 vectors.
inline void totals(const Vec (&v)[16], float* out) {
#if defined(CPU_CAPABILITY_AVX512)
    __m512 a[8], b[4];
    for (int i = 0; i < 8; ++i) {
        const __m512 x = v[2 * i], y = v[2 * i + 1];
        a[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
    }
    for (int i = 0; i < 4; ++i) {
        const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
        b[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    for (int i = 0; i < 4; i += 2)
        b[i / 2] = _mm512_add_ps(_mm512_shuffle_f32x4(b[i], b[i + 1], 0x88), _mm512_shuffle_f32x4(b[i], b[i + 1], 0xDD));
    const __m512 low = _mm512_shuffle_f32x4(b[0], b[1], 0x88), high = _mm512_shuffle_f32x4(b[0], b[1], 0xDD);
    _mm512_storeu_ps(out, _mm512_add_ps(low, high));
#else
    for (int i = 0; i < 16; ++i) out[i] = total(v[i]);
#endif
}

// Scores to weights, in place; behind the last of them up to ``padded`` are zeros. Returns one over their sum.
inline float softmax(float* scores, int64_t length, int64_t padded, const Rule& rule) {
    constexpr int64_t LANES = Vec::size();
    if (rule.cap > 0) {
        const float cap = static_cast<float>(rule.cap);
        for (int64_t j = 0; j < length; ++j) scores[j] = cap * std::tanh(scores[j] / cap);
    }
    std::fill(scores + length, scores + padded, -std::numeric_limits<float>::infinity());
    Vec largest(-std::numeric_limits<float>::infinity());
    for (int64_t j = 0; j < padded; j += LANES) largest = at::vec::maximum(largest, Vec::loadu(scores + j));
    const Vec top(at::vec::vec_reduce_all<float>([](Vec a, Vec b) { return at::vec::maximum(a, b); }, largest));
    Vec mass(0.0f);
    for (int64_t j = 0; j < padded; j += LANES) {
        const Vec weight = (Vec::loadu(scores + j) - top).exp_u20();
        weight.store(scores + j);
        mass = mass + weight;
    }
    return 1.0f / total(mass);
}

// HEADS query heads of one token, which share a key head, against their slot. PARTS vectors make a head.
template <typename T, int PARTS, int HEADS>
void attend_heads(const Strided<T>& q, const T* keys, const T* values, int64_t length, const Rule& rule, int64_t token,
                  int64_t head, T* out, std::vector<float>& space) {
    constexpr int64_t LANES = Vec::size(), SIZE = PARTS * LANES;
    const int64_t padded = (length + 15) / 16 * 16;
    space.resize(HEADS * padded + SIZE);
    float* scores = space.data();
    Vec query[HEADS][PARTS];
    for (int h = 0; h < HEADS; ++h)
        for (int i = 0; i < PARTS; ++i)
            query[h][i] = load(q.at(head + h, token) + i * LANES) * Vec(static_cast<float>(rule.scale));
    for (int64_t j = 0; j < length; j += 16) {
        Vec dots[HEADS][16];
        const int64_t count = std::min<int64_t>(16, length - j);
        for (int64_t k = 0; k < count; ++k) {
            const T* key = keys + (j + k) * SIZE;
            for (int i = 0; i < PARTS; ++i) {
                const Vec part = load(key + i * LANES);
                for (int h = 0; h < HEADS; ++h)
                    dots[h][k] = i ? at::vec::fmadd(part, query[h][i], dots[h][k]) : part * query[h][i];
            }
        }
        for (int64_t k = count; k < 16; ++k)
            for (int h = 0; h < HEADS; ++h) dots[h][k] = Vec(0.0f);
        for (int h = 0; h < HEADS; ++h) totals(dots[h], scores + h * padded + j);
    }
    float share[HEADS];
    for (int h = 0; h < HEADS; ++h) share[h] = softmax(scores + h * padded, length, padded, rule);
    Vec sum[HEADS][PARTS];
    for (int h = 0; h < HEADS; ++h)
        for (int i = 0; i < PARTS; ++i) sum[h][i] = Vec(0.0f);
    for (int64_t j = 0; j < length; ++j)
        for (int i = 0; i < PARTS; ++i) {
            const Vec part = load(values + j * SIZE + i * LANES);
            for (int h = 0; h < HEADS; ++h) sum[h][i] = at::vec::fmadd(Vec(scores[h * padded + j]), part, sum[h][i]);
        }
    float* line = scores + HEADS * padded;
    for (int h = 0; h < HEADS; ++h) {
        for (int i = 0; i < PARTS; ++i) (sum[h][i] * Vec(share[h])).store(line + i * LANES);
        T* to = out + (head + h) * SIZE;
        for (int64_t d = 0; d < SIZE; ++d) to[d] = static_cast<T>(line[d]);
    }
}

// One query token against its slot, for the query heads that share a key head: as many at a time as registers hold.
template <typename T, int PARTS>
void attend_one(const Strided<T>& q, const T* keys, const T* values, const Heads& heads, const Rule& rule, int64_t token,
                int64_t position, int64_t key_head, T* out, std::vector<float>& space) {
    constexpr int MOST = std::max(1, std::min(4, 16 / PARTS));
    const int64_t from = rule.window > 0 ? std::max<int64_t>(0, position + 1 - rule.window) : 0;
    const int64_t length = position + 1 - from, shared = heads.query / heads.key;
    keys += from * PARTS * Vec::size();
    values += from * PARTS * Vec::size();
    for (int64_t done = 0; done < shared;) {
        const int64_t head = key_head * shared + done, left = shared - done;
        const auto some = [&](auto count) {
            attend_heads<T, PARTS, count>(q, keys, values, length, rule, token, head, out, space);
            done += count;
        };
        if (MOST >= 4 && left >= 4)
            some(std::integral_constant<int, std::min(4, MOST)>{});
        else if (MOST >= 3 && left >= 3)
            some(std::integral_constant<int, std::min(3, MOST)>{});
        else if (MOST >= 2 && left >= 2)
            some(std::integral_constant<int, std::min(2, MOST)>{});
        else
            some(std::integral_constant<int, 1>{});
    }
}

struct Segment {
    int64_t offset, count, slot, start;
};

// What is added to the scores of many query tokens, (shared heads * tokens, length): it hides what comes behind a token
// or before its window.
template <typename T>
at::Tensor mask_of(const Segment& segment, int64_t shared, int64_t from, int64_t length, const Rule& rule,
                   const at::TensorOptions& options) {
    at::Tensor mask = at::empty({1, 1, shared * segment.count, length}, options);
    T* all = mask.data_ptr<T>();
    const T hidden = static_cast<T>(-std::numeric_limits<float>::infinity()), shown = static_cast<T>(0.0f);
    for (int64_t row = 0; row < shared * segment.count; ++row) {
        T* line = all + row * length;
        const int64_t end = segment.start + row % segment.count + 1 - from;
        const int64_t begin = rule.window > 0 ? std::max<int64_t>(0, end - rule.window) : 0;
        std::fill(line, line + begin, hidden);
        std::fill(line + begin, line + end, shown);
        std::fill(line + end, line + length, hidden);
    }
    return mask;
}

// Scores of many query tokens to weights, in place, hiding what comes behind a token or before its window.
template <typename T>
void softmax_rows(at::Tensor& scores, const Segment& segment, int64_t from, const Rule& rule) {
    const int64_t length = scores.size(2), rows = scores.size(0) * scores.size(1);
    T* all = scores.data_ptr<T>();
    at::parallel_for(0, rows, std::max<int64_t>(1, 16384 / length), [&](int64_t first, int64_t last) {
        std::vector<float> space((length + 15) / 16 * 16);
        for (int64_t row = first; row < last; ++row) {
            T* line = all + row * length;
            const int64_t end = segment.start + row % segment.count + 1 - from;
            const int64_t begin = rule.window > 0 ? std::max<int64_t>(0, end - rule.window) : 0, seen = end - begin;
            const auto scale = static_cast<float>(rule.scale);
            for (int64_t j = 0; j < seen; ++j) space[j] = static_cast<float>(line[begin + j]) * scale;
            const float share = softmax(space.data(), seen, (seen + 15) / 16 * 16, rule);
            std::fill(line, line + begin, static_cast<T>(0.0f));
            for (int64_t j = 0; j < seen; ++j) line[begin + j] = static_cast<T>(space[j] * share);
            std::fill(line + end, line + length, static_cast<T>(0.0f));
        }
    });
}

// Many query tokens of one slot, by PyTorch's own products.
template <typename T>
void attend_many(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, const Segment& segment,
                 const Heads& heads, const Rule& rule, at::Tensor& out) {
    const int64_t shared = heads.query / heads.key, end = segment.start + segment.count;
    const int64_t from = rule.window > 0 ? std::max<int64_t>(0, segment.start + 1 - rule.window) : 0;
    const at::Tensor k = keys.select(0, segment.slot).slice(1, from, end);    // (key heads, length, size)
    const at::Tensor v = values.select(0, segment.slot).slice(1, from, end);
    const at::Tensor asked = q.select(0, 0).slice(1, segment.offset, segment.offset + segment.count);
    const at::Tensor rows = asked.reshape({heads.key, shared * segment.count, heads.size});
    at::Tensor result;
    if (rule.cap > 0) {
        at::Tensor scores = at::bmm(rows, k.transpose(1, 2));
        softmax_rows<T>(scores, segment, from, rule);
        result = at::bmm(scores, v);
    } else {
        const at::Tensor mask = mask_of<T>(segment, shared, from, end - from, rule, q.options());
        result = at::scaled_dot_product_attention(rows.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), mask, 0.0, false,
                                                  rule.scale);
    }
    result = result.reshape({heads.query, segment.count, heads.size});
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
        if (!one_by_one(heads, segment)) attend_many<T>(q, keys, values, segment, heads, rule, out);
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
            int64_t i = 0;
            for (; i + Vec::size() <= size; i += Vec::size()) {
                const Vec g = load(gate + i);
                store(g / (Vec(1.0f) + g.neg().exp_u20()) * load(up + i), out + i);
            }
            for (; i < size; ++i) {
                const float g = static_cast<float>(gate[i]);
                out[i] = static_cast<T>(g / (1.0f + std::exp(-g)) * static_cast<float>(up[i]));
            }
        }
    });
}

// The place of the first largest value of each row.
template <typename T>
void argmax_of(const at::Tensor& x, int64_t* to) {
    const int64_t size = x.size(-1), rows = x.numel() / size;
    const T* from = x.data_ptr<T>();
    at::parallel_for(0, rows, std::max<int64_t>(1, GRAIN * 8 / size), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const T* line = from + row * size;
            Vec tops(-std::numeric_limits<float>::infinity());
            int64_t i = 0;
            for (; i + Vec::size() <= size; i += Vec::size()) tops = at::vec::maximum(tops, load(line + i));
            float top = at::vec::vec_reduce_all<float>([](Vec a, Vec b) { return at::vec::maximum(a, b); }, tops);
            for (; i < size; ++i) top = std::max(top, static_cast<float>(line[i]));
            const T* found = std::find_if(line, line + size, [&](T value) { return static_cast<float>(value) == top; });
            to[row] = found == line + size ? 0 : found - line;
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

// x (N, V): the place of the first largest value of each row, (N); 0 where a row holds none.
at::Tensor argmax(const at::Tensor& input) {
    const at::Tensor x = input.contiguous();
    at::Tensor y = at::empty({x.size(0)}, x.options().dtype(at::kLong));
    by_type(x, [&](auto type) { argmax_of<decltype(type)>(x, y.data_ptr<int64_t>()); });
    return y;
}

TORCH_LIBRARY_IMPL(loquent, CompositeExplicitAutograd, library) {
    library.impl("forms", forms);
}

TORCH_LIBRARY_IMPL(loquent, CPU, library) {
    library.impl("linear", linear);
    library.impl("attention", attention);
    library.impl("rms_norm", rms_norm);
    library.impl("rotate", rotate);
    library.impl("gate", gate);
    library.impl("argmax", argmax);
}
