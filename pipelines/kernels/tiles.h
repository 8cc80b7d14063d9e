// Products by matrix tiles (AMX).

#pragma once

#include "packing.h"

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
    Pool::get().parallel(blocks, 1, [&](int64_t from, int64_t to) {
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
    Pool::get().parallel(blocks, 1, [&](int64_t from, int64_t to) {
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
at::Tensor linear_by_tiles(const at::Tensor& input, const at::Tensor& weights, Packing packing, int64_t outputs) {
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
        if (rows == 1 && packing.bits == 4)
            multiply_row<4>(from, packed, inputs / GROUP, outputs, to);
        else if (rows == 1)
            multiply_row<8>(from, packed, inputs / GROUP, outputs, to);
        else if (packing.bits == 4)
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
