// Products by integer lanes (AVX-512 VNNI).

#pragma once

#include "activations.h"
#include "packing.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include <immintrin.h>

namespace {

constexpr int64_t ROWS_AT_ONCE = 6;               // that registers hold beside two blocks
constexpr int64_t LEAST_ROWS = 4 * ROWS_AT_ONCE;  // that are worth reading two blocks of weights again
constexpr int64_t TASKS = 64;                     // that a product is divided into, where it is large enough

struct Product {
    const int8_t* x;                       // (M, K)
    const float* x_scale;                  // (M, K / GROUP)
    const float* x_sum;                    // (M, K / GROUP): the scaled sum of each group
    const int32_t* x_total;                // (M, K / GROUP, 2): the sum of each half of a group, not scaled
    const std::vector<Outlier>* outliers;  // (M)
    const uint8_t* weights;                // (N / BLOCK, K / GROUP, bytes of a group of a block)
    int64_t groups, outputs;
    int64_t first = 0;      // the block that the weights begin with
    int64_t ahead = AHEAD;  // bytes of weights that are fetched before they are used
};

// How a group of a block lies in memory (see Packing). A vector of 64 bytes holds four successive inputs of each output.
// With 8 bits there are eight; else four, each with two such, the lower halves of the bytes first, and then the higher
// bits, 64 at a time.
template <int B, Factors F>
struct Layout {
    static constexpr int BITS = B, VECTORS = B == 8 ? 8 : 4;
    static constexpr bool MINIMUM = F == Factors::MINIMUM;
    static constexpr int PARTS = F == Factors::HALVES ? 2 : 1;  // of a group, each with its scale
    static constexpr int64_t QUANTS = GROUP * BLOCK * B / 8, BYTES = QUANTS + (MINIMUM ? 2 : PARTS) * 2 * BLOCK;
    static constexpr int MIDDLE = MINIMUM ? 0 : 1 << (B - 1);  // the quant that means zero

    static __m512 factor(const uint8_t* group, int n) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + QUANTS) + n));
    }

    static uint64_t higher(const uint8_t* group, int64_t bit, int64_t quad) {
        uint64_t bits;
        std::memcpy(&bits, group + 4 * 64 + (bit - 4) * 64 + quad * 8, sizeof bits);
        return bits;
    }

    // The quants of four inputs, of which ``lower`` are the lower bits.
    static __m512i joined(const uint8_t* group, int64_t quad, __m512i lower) {
        if constexpr (B == 5 || B == 6)
            lower = _mm512_mask_add_epi8(lower, higher(group, 4, quad), lower, _mm512_set1_epi8(16));
        if constexpr (B == 6)
            lower = _mm512_mask_add_epi8(lower, higher(group, 5, quad), lower, _mm512_set1_epi8(32));
        return lower;
    }

    // The weights of one input, for each output.
    static __m512 column(const uint8_t* group, int64_t input) {
        const int64_t quad = input / 4;
        __m512i vector = _mm512_loadu_si512(group + (B == 8 ? quad : quad / 2) * 64);
        if constexpr (B != 8) {
            vector = _mm512_and_si512(quad % 2 ? _mm512_srli_epi16(vector, 4) : vector, _mm512_set1_epi8(0x0F));
            vector = joined(group, quad, vector);
        }
        return meant(_mm512_srl_epi32(vector, _mm_cvtsi32_si128(static_cast<int>(input % 4 * 8))), group, input);
    }

    // What the lowest bytes of a vector mean as quants of an input.
    static __m512 meant(__m512i vector, const uint8_t* group, int64_t input) {
        const __m512i quants = _mm512_sub_epi32(_mm512_and_si512(vector, _mm512_set1_epi32(0xFF)), _mm512_set1_epi32(MIDDLE));
        const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(quants), factor(group, static_cast<int>(input * PARTS / GROUP)));
        return MINIMUM ? _mm512_add_ps(scaled, factor(group, 1)) : scaled;
    }
};

// The same with the quants in 8 bits each.
template <class L>
struct Unpacked : L {
    static constexpr int BITS = 8, VECTORS = 8;
    static constexpr int64_t QUANTS = GROUP * BLOCK, BYTES = QUANTS + (L::BYTES - L::QUANTS);

    static void unpack(const uint8_t* from, int64_t groups, uint8_t* to) {
        const __m512i nibble = _mm512_set1_epi8(0x0F);
        for (int64_t g = 0; g < groups; ++g, from += L::BYTES, to += BYTES) {
            for (int64_t j = 0; j < L::VECTORS; ++j) {
                const __m512i w = _mm512_loadu_si512(from + j * 64);
                _mm_prefetch(reinterpret_cast<const char*>(from + j * 64 + AHEAD), _MM_HINT_T0);
                const __m512i high = _mm512_and_si512(_mm512_srli_epi16(w, 4), nibble);
                _mm512_storeu_si512(to + j * 128, L::joined(from, 2 * j, _mm512_and_si512(w, nibble)));
                _mm512_storeu_si512(to + j * 128 + 64, L::joined(from, 2 * j + 1, high));
            }
            std::memcpy(to + QUANTS, from + L::QUANTS, L::BYTES - L::QUANTS);
        }
    }

    static __m512 factor(const uint8_t* group, int n) { return L::factor(group + QUANTS - L::QUANTS, n); }

    static __m512 column(const uint8_t* group, int64_t input) {
        const __m512i vector = _mm512_srl_epi32(_mm512_loadu_si512(group + input / 4 * 64),
                                                _mm_cvtsi32_si128(static_cast<int>(input % 4 * 8)));
        return L::meant(vector, group + QUANTS - L::QUANTS, input);
    }
};

// MR rows times NR blocks of outputs, into result (MR, NR * BLOCK).
template <class L, int MR, int NR>
void tile(const Product& p, int64_t row, int64_t block, float* result) {
    const int64_t groups = p.groups;
    const __m512i nibble = _mm512_set1_epi8(0x0F);
    __m512 sum[MR][NR];
    for (int m = 0; m < MR; ++m)
        for (int n = 0; n < NR; ++n) sum[m][n] = _mm512_setzero_ps();
    const int32_t* x[MR];
    for (int m = 0; m < MR; ++m) x[m] = reinterpret_cast<const int32_t*>(p.x + (row + m) * groups * GROUP);
    const uint8_t* weights[NR];
    for (int n = 0; n < NR; ++n) weights[n] = p.weights + (block - p.first + n) * groups * L::BYTES;
    for (int64_t g = 0; g < groups; ++g) {
        for (int part = 0; part < L::PARTS; ++part) {
            __m512i dot[MR][NR];
            for (int m = 0; m < MR; ++m) {
                const int32_t* total = p.x_total + ((row + m) * groups + g) * 2;
                const int32_t sum_of_x = L::PARTS == 2 ? total[part] : total[0] + total[1];
                // Quants are unsigned: what they are too high by comes off first.
                const __m512i begin = L::MIDDLE ? _mm512_set1_epi32(-L::MIDDLE * sum_of_x) : _mm512_setzero_si512();
                for (int n = 0; n < NR; ++n) dot[m][n] = begin;
            }
            for (int j = part * L::VECTORS / L::PARTS; j < (part + 1) * L::VECTORS / L::PARTS; ++j) {
                for (int n = 0; n < NR; ++n) {
                    const __m512i w = _mm512_loadu_si512(weights[n] + j * 64);
                    _mm_prefetch(reinterpret_cast<const char*>(weights[n] + j * 64 + p.ahead), _MM_HINT_T0);
                    if constexpr (L::BITS == 8) {
                        for (int m = 0; m < MR; ++m)
                            dot[m][n] = _mm512_dpbusd_epi32(dot[m][n], w, _mm512_set1_epi32(x[m][g * 8 + j]));
                    } else {
                        const __m512i low = L::joined(weights[n], 2 * j, _mm512_and_si512(w, nibble));
                        const __m512i high =
                            L::joined(weights[n], 2 * j + 1, _mm512_and_si512(_mm512_srli_epi16(w, 4), nibble));
                        for (int m = 0; m < MR; ++m) {
                            dot[m][n] = _mm512_dpbusd_epi32(dot[m][n], low, _mm512_set1_epi32(x[m][g * 8 + 2 * j]));
                            dot[m][n] = _mm512_dpbusd_epi32(dot[m][n], high, _mm512_set1_epi32(x[m][g * 8 + 2 * j + 1]));
                        }
                    }
                }
            }
            for (int n = 0; n < NR; ++n) {
                const __m512 scale = L::factor(weights[n], part);
                for (int m = 0; m < MR; ++m) {
                    const int64_t group = (row + m) * groups + g;
                    const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(p.x_scale[group]));
                    sum[m][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[m][n]), both, sum[m][n]);
                    if constexpr (L::MINIMUM)
                        sum[m][n] = _mm512_fmadd_ps(L::factor(weights[n], 1), _mm512_set1_ps(p.x_sum[group]), sum[m][n]);
                }
            }
        }
        for (int n = 0; n < NR; ++n) {
            _mm_prefetch(reinterpret_cast<const char*>(weights[n] + L::QUANTS + p.ahead), _MM_HINT_T0);
            weights[n] += L::BYTES;
        }
    }
    for (int m = 0; m < MR; ++m)
        for (int n = 0; n < NR; ++n) _mm512_storeu_ps(result + (m * NR + n) * BLOCK, sum[m][n]);
}

// What one outlier adds to the results of a block.
template <class L>
void add_outlier(const Product& p, const Outlier& outlier, int64_t block, float* result) {
    const uint8_t* group = p.weights + ((block - p.first) * p.groups + outlier.input / GROUP) * L::BYTES;
    const __m512 weight = L::column(group, outlier.input % GROUP);
    _mm512_storeu_ps(result, _mm512_fmadd_ps(weight, _mm512_set1_ps(outlier.value), _mm512_loadu_ps(result)));
}

template <class L, int MR, int NR, typename T>
void rows_by_blocks(const Product& p, int64_t row, int64_t block, T* y) {
    float result[MR * NR * BLOCK];
    tile<L, MR, NR>(p, row, block, result);
    for (int m = 0; m < MR; ++m)
        for (const Outlier& outlier : p.outliers[row + m])
            for (int n = 0; n < NR; ++n) add_outlier<L>(p, outlier, block + n, result + (m * NR + n) * BLOCK);
    const int64_t first = block * BLOCK;
    const int64_t count = std::min<int64_t>(NR * BLOCK, p.outputs - first);
    for (int m = 0; m < MR; ++m) {
        T* out = y + (row + m) * p.outputs + first;
        const float* from = result + m * NR * BLOCK;
        if (count == NR * BLOCK)
            for (int n = 0; n < NR; ++n) store(Vec(_mm512_loadu_ps(from + n * BLOCK)), out + n * BLOCK);
        else
            for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(from[i]);
    }
}

// Rows ``row`` to ``end``.
template <class L, int NR, typename T>
void some_rows(const Product& p, int64_t row, int64_t end, int64_t block, T* y) {
    for (; end - row >= ROWS_AT_ONCE; row += ROWS_AT_ONCE) rows_by_blocks<L, ROWS_AT_ONCE, NR>(p, row, block, y);
    switch (end - row) {
        case 5: rows_by_blocks<L, 5, NR>(p, row, block, y); break;
        case 4: rows_by_blocks<L, 4, NR>(p, row, block, y); break;
        case 3: rows_by_blocks<L, 3, NR>(p, row, block, y); break;
        case 2: rows_by_blocks<L, 2, NR>(p, row, block, y); break;
        case 1: rows_by_blocks<L, 1, NR>(p, row, block, y); break;
        default: break;
    }
}

// One block, or two side by side.
template <class L, typename T>
void some_blocks(const Product& p, int64_t row, int64_t end, int64_t block, int64_t count, T* y) {
    if (count == 2)
        some_rows<L, 2>(p, row, end, block, y);
    else
        some_rows<L, 1>(p, row, end, block, y);
}

template <class L, typename T>
void multiply(const Product& p, int64_t rows, int64_t blocks, T* y) {
    constexpr int64_t MANY = 12;  // rows for which 5 and 6 bits are worth to be unpacked once
    if (rows == 0) return;
    const int64_t pairs = (blocks + 1) / 2;
    const int64_t most = std::min((rows + LEAST_ROWS - 1) / LEAST_ROWS, (TASKS + pairs - 1) / pairs);
    const int64_t slab = ((rows + most - 1) / most + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE * ROWS_AT_ONCE;
    const int64_t slabs = (rows + slab - 1) / slab;
    Pool::get().parallel(pairs * slabs, 1, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; ++task) {
            const int64_t block = task / slabs * 2, count = std::min<int64_t>(2, blocks - block);
            const int64_t row = task % slabs * slab, end = std::min(row + slab, rows);
            if constexpr (L::BITS == 5 || L::BITS == 6) {
                if (rows >= MANY) {
                    thread_local std::vector<uint8_t> space;
                    if (task == from || row == 0) {
                        space.resize(count * p.groups * Unpacked<L>::BYTES);
                        Unpacked<L>::unpack(p.weights + block * p.groups * L::BYTES, count * p.groups, space.data());
                    }
                    Product unpacked = p;
                    unpacked.weights = space.data();
                    unpacked.first = block;
                    some_blocks<Unpacked<L>>(unpacked, row, end, block, count, y);
                    continue;
                }
            }
            some_blocks<L>(p, row, end, block, count, y);
        }
    });
}

template <typename T>
void linear_of(const at::Tensor& x, Product p, Packing packing, int64_t blocks, at::Tensor& y) {
    const int64_t rows = x.size(0), groups = p.groups;
    thread_local std::vector<int8_t> q;
    thread_local std::vector<float> scale, sum;
    thread_local std::vector<int32_t> total;
    thread_local std::vector<std::vector<Outlier>> outliers;
    q.resize(rows * groups * GROUP);
    scale.resize(rows * groups);
    sum.resize(rows * groups);
    total.resize(rows * groups * 2);
    outliers.resize(std::max<size_t>(outliers.size(), rows));
    const T* from = x.data_ptr<T>();
    int8_t* q_to = q.data();
    float* scale_to = scale.data();
    float* sum_to = sum.data();
    int32_t* total_to = total.data();
    std::vector<Outlier>* outliers_to = outliers.data();
    Pool::get().parallel(rows, std::max<int64_t>(1, GRAIN / (groups * GROUP)), [&](int64_t first, int64_t last) {
        for (int64_t m = first; m < last; ++m)
            quantise(from + m * groups * GROUP, groups,
                     {q_to + m * groups * GROUP, scale_to + m * groups, sum_to + m * groups, total_to + m * groups * 2,
                      outliers_to[m]});
    });
    p.x = q_to;
    p.x_scale = scale_to;
    p.x_sum = sum_to;
    p.x_total = total_to;
    p.outliers = outliers_to;
    T* to = y.data_ptr<T>();
    const auto in = [&](int64_t bits, Factors factors) { return packing.bits == bits && packing.factors == factors; };
    if (in(4, Factors::MINIMUM)) multiply<Layout<4, Factors::MINIMUM>>(p, rows, blocks, to);
    if (in(5, Factors::MINIMUM)) multiply<Layout<5, Factors::MINIMUM>>(p, rows, blocks, to);
    if (in(8, Factors::MINIMUM)) multiply<Layout<8, Factors::MINIMUM>>(p, rows, blocks, to);
    if (in(4, Factors::SIGNED)) multiply<Layout<4, Factors::SIGNED>>(p, rows, blocks, to);
    if (in(5, Factors::SIGNED)) multiply<Layout<5, Factors::SIGNED>>(p, rows, blocks, to);
    if (in(8, Factors::SIGNED)) multiply<Layout<8, Factors::SIGNED>>(p, rows, blocks, to);
    if (in(6, Factors::HALVES)) multiply<Layout<6, Factors::HALVES>>(p, rows, blocks, to);
}

}  // namespace

// x (..., K) times packed weights (N, K): (..., N) in x's type.
at::Tensor linear_by_lanes(const at::Tensor& input, const at::Tensor& weights, Packing packing, int64_t outputs) {
    const int64_t inputs = input.size(-1);
    const at::Tensor x = input.reshape({-1, inputs}).contiguous();
    auto shape = input.sizes().vec();
    shape.back() = outputs;
    at::Tensor y = at::empty(shape, input.options());
    Product p{};
    p.weights = weights.data_ptr<uint8_t>();
    p.groups = inputs / GROUP;
    // While more rows are multiplied with two blocks, the next two come.
    if (x.size(0) > ROWS_AT_ONCE) p.ahead = std::max(AHEAD, 2 * weights.stride(0));
    p.outputs = outputs;
    if (x.scalar_type() == at::kBFloat16)
        linear_of<at::BFloat16>(x, p, packing, weights.size(0), y);
    else
        linear_of<float>(x, p, packing, weights.size(0), y);
    return y;
}

#define LOQUENT_LANES
#endif
