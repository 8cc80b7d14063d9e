// Attention of many tokens of one slot, in pairs of bfloat16 (AVX-512 BF16).
//
// They are attended by columns: the rows (token, query head) that share a key head lie side by side in vectors, 16 in
// each. So keys are read as they lie in the slot, and a maximum or a sum over keys is one of whole vectors. Keys come in
// blocks, with the maximum so far, as in https://arxiv.org/abs/2205.14135; a product takes pairs of values in bfloat16,
// which lie side by side.
//
// What a row gets depends on nothing but its own keys, so it is the same however a prompt was cut into chunks.

#pragma once

#include "heads.h"

#if defined(__AVX512BF16__) && defined(CPU_CAPABILITY_AVX512)
#define LOQUENT_PAIRS

namespace {

constexpr int64_t ACROSS = 16, KEYS = 64;  // rows in a vector; keys in a block: what belongs to it stays in the first cache
constexpr int64_t WIDTH = 3;               // vectors of rows that are attended together

// c[r][column] = (ADD ? c[r][column] * by[column] : 0) + sum over p of a[r][p] . b[p][column], for A rows of pairs and V
// vectors of columns.
template <int A, int V, bool ADD>
inline void multiply_pairs(const uint32_t* a, int64_t row, int64_t step, const uint32_t* b, int64_t pairs, const __m512* by,
                           float* c) {
    __m512 sum[A][V];
    for (int r = 0; r < A; ++r)
        for (int v = 0; v < V; ++v)
            sum[r][v] = ADD ? _mm512_mul_ps(_mm512_loadu_ps(c + (r * V + v) * ACROSS), by[v]) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; ++p, b += V * ACROSS) {
        __m512bh columns[V];
        for (int v = 0; v < V; ++v) {
            columns[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + v * ACROSS));
            asm("" : "+v"(columns[v]));  // or the compiler loads it again for each row
        }
        for (int r = 0; r < A; ++r) {
            const auto pair = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(a[r * row + p * step])));
            for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], columns[v], pair);
        }
    }
    for (int r = 0; r < A; ++r)
        for (int v = 0; v < V; ++v) _mm512_storeu_ps(c + (r * V + v) * ACROSS, sum[r][v]);
}

// Where the rows of one key head are, and what they see.
struct Asked {
    const Strided<at::BFloat16>& q;
    const Segment& segment;
    const Heads& heads;
    const Rule& rule;
    int64_t head;  // the first query head
    int64_t rows() const { return segment.count * shared(); }
    int64_t shared() const { return heads.query / heads.key; }
    int64_t position(int64_t row) const { return segment.start + row / shared(); }
    int64_t begin(int64_t row) const { return rule.window > 0 ? std::max<int64_t>(0, position(row) + 1 - rule.window) : 0; }
    const at::BFloat16* query(int64_t row) const { return q.at(head + row % shared(), segment.offset + row / shared()); }
};

// Attends V vectors of rows, from the row ``first`` on.
template <int V>
class Columns {
public:
    Columns(const Asked& asked, int64_t first) : asked_(asked), first_(first), size_(asked.heads.size) {
        constexpr int64_t COLUMNS = V * ACROSS;
        thread_local std::vector<float> space;
        space.resize(COLUMNS * (size_ / 2 + KEYS + KEYS / 2 + size_) + KEYS / 2 * size_);
        scores_ = space.data();
        results_ = scores_ + COLUMNS * KEYS;
        queries_ = reinterpret_cast<uint32_t*>(results_ + COLUMNS * size_);
        weights_ = queries_ + COLUMNS * size_ / 2;
        values_ = weights_ + COLUMNS * KEYS / 2;
        std::fill_n(results_, COLUMNS * size_, 0.0f);
        for (int v = 0; v < V; ++v) {
            alignas(64) int32_t positions[ACROSS], begins[ACROSS];
            const uint16_t* rows[ACROSS];
            for (int64_t lane = 0; lane < ACROSS; ++lane) {
                const int64_t row = std::min(first + v * ACROSS + lane, asked.rows() - 1);  // the last one stands in for none
                positions[lane] = static_cast<int32_t>(asked.position(row));
                begins[lane] = static_cast<int32_t>(asked.begin(row));
                rows[lane] = reinterpret_cast<const uint16_t*>(asked.query(row));
            }
            position_[v] = _mm512_load_si512(positions);
            begin_[v] = _mm512_load_si512(begins);
            most_[v] = _mm512_set1_ps(LEAST_SCORE);
            mass_[v] = _mm512_setzero_ps();
            for (int64_t p = 0; p < size_ / 2; p += ACROSS) {
                __m512i parts[ACROSS];
                for (int64_t lane = 0; lane < ACROSS; ++lane) parts[lane] = _mm512_loadu_si512(rows[lane] + 2 * p);
                transpose(parts);
                for (int64_t n = 0; n < ACROSS; ++n) _mm512_storeu_si512(queries_ + (p + n) * COLUMNS + v * ACROSS, parts[n]);
            }
        }
    }

    void attend(const at::BFloat16* keys, const at::BFloat16* values) {
        const int64_t last = std::min(first_ + V * ACROSS, asked_.rows()) - 1, end = asked_.position(last) + 1;
        // Blocks begin at the same places whatever the window hides.
        for (int64_t from = asked_.begin(first_) / KEYS * KEYS; from < end; from += KEYS) {
            const int64_t count = std::min(KEYS, end - from);
            score(reinterpret_cast<const uint32_t*>(keys + from * size_), count);
            __m512 faded[V];  // what is left of the weights so far beside a larger maximum
            weigh(from, count, from < asked_.begin(last) || from + count > asked_.position(first_) + 1, faded);
            pair_up(reinterpret_cast<const uint16_t*>(values + from * size_), count);
            for (int64_t d = 0; d < size_; d += A)
                multiply_pairs<A, V, true>(values_ + d, 1, size_, weights_, (count + 1) / 2, faded, results_ + d * V * ACROSS);
        }
    }

    // Into ``out`` (tokens, heads, size).
    void give(at::BFloat16* out) const {
        for (int v = 0; v < V; ++v) {
            const int64_t row = first_ + v * ACROSS, count = std::min(ACROSS, asked_.rows() - row);
            const __m512 share = _mm512_div_ps(_mm512_set1_ps(1.0f), mass_[v]);
            for (int64_t d = 0; d < size_; d += ACROSS) {
                __m512i parts[ACROSS];
                for (int64_t n = 0; n < ACROSS; ++n)
                    parts[n] = _mm512_castps_si512(
                        _mm512_mul_ps(_mm512_loadu_ps(results_ + ((d + n) * V + v) * ACROSS), share));
                transpose(parts);
                for (int64_t lane = 0; lane < count; ++lane) {
                    const int64_t token = asked_.segment.offset + (row + lane) / asked_.shared();
                    const int64_t head = asked_.head + (row + lane) % asked_.shared();
                    _mm256_storeu_si256(
                        reinterpret_cast<__m256i*>(out + (token * asked_.heads.query + head) * size_ + d),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_castsi512_ps(parts[lane]))));
                }
            }
        }
    }

private:
    static constexpr int A = V == 1 ? 16 : 8;      // rows of a product that registers hold beside V vectors
    static constexpr float LEAST_SCORE = -1e30f;  // in place of minus infinity, which has no difference from itself

    // Scores of ``count`` keys, (count, V * ACROSS).
    void score(const uint32_t* keys, int64_t count) {
        const int64_t pairs = size_ / 2;
        int64_t k = 0;
        for (; k + A <= count; k += A)
            multiply_pairs<A, V, false>(keys + k * pairs, pairs, 1, queries_, pairs, nullptr, scores_ + k * V * ACROSS);
        for (; k < count; ++k)
            multiply_pairs<1, V, false>(keys + k * pairs, pairs, 1, queries_, pairs, nullptr, scores_ + k * V * ACROSS);
    }

    // Scores to weights in pairs; ``hides`` says whether some row does not see all of these keys.
    void weigh(int64_t from, int64_t count, bool hides, __m512 (&faded)[V]) {
        const float cap = static_cast<float>(asked_.rule.cap), scale = static_cast<float>(asked_.rule.scale);
        const float factor = 1.44269504f * (cap > 0 ? cap : scale);  // weights are powers of two
        const __m512 by = _mm512_set1_ps(factor);
        for (int v = 0; v < V; ++v) {
            const auto place = [&](int64_t k) { return scores_ + (k * V + v) * ACROSS; };
            if (cap > 0)
                for (int64_t k = 0; k < count; ++k) (Vec::loadu(place(k)) * Vec(scale / cap)).tanh().store(place(k));
            if (hides) hide(from, count, v);
            __m512 most = most_[v];
            for (int64_t k = 0; k < count; ++k) most = _mm512_max_ps(most, _mm512_loadu_ps(place(k)));
            const __m512 less = _mm512_mul_ps(most, by);
            const __mmask16 same = _mm512_cmp_ps_mask(most, most_[v], _CMP_EQ_OQ);  // as exactly as nothing happened
            faded[v] = _mm512_mask_mov_ps(power_of_two(_mm512_fmsub_ps(most_[v], by, less)), same, _mm512_set1_ps(1.0f));
            most_[v] = most;
            __m512 mass = _mm512_mul_ps(mass_[v], faded[v]);
            const auto weight = [&](int64_t k) {
                const __m512 found = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(place(k)), by, less));
                mass = _mm512_add_ps(mass, found);
                return found;
            };
            const __m512i order = in_turn(0, ACROSS);
            for (int64_t k = 0; k < count; k += 2) {
                const __m512 one = weight(k), other = k + 1 < count ? weight(k + 1) : _mm512_setzero_ps();
                const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(other, one));
                _mm512_storeu_si512(weights_ + (k / 2 * V + v) * ACROSS, _mm512_permutexvar_epi16(order, both));
            }
            mass_[v] = mass;
        }
    }

    void hide(int64_t from, int64_t count, int v) {
        for (int64_t k = 0; k < count; ++k) {
            const __m512i key = _mm512_set1_epi32(static_cast<int32_t>(from + k));
            const __mmask16 out = _mm512_cmpgt_epi32_mask(key, position_[v]) | _mm512_cmplt_epi32_mask(key, begin_[v]);
            const __m512 nothing = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
            _mm512_mask_storeu_ps(scores_ + (k * V + v) * ACROSS, out, nothing);
        }
    }

    // 2 to the power of x, to 3 parts in a million, by a polynomial of least relative error.
    static __m512 power_of_two(__m512 x) {
        const __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);  // x less its floor
        __m512 sum = _mm512_set1_ps(0.0134266880f);
        for (const float factor : {0.0522424682f, 0.2412802076f, 0.6930448445f, 1.0f})
            sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(factor));
        return _mm512_scalef_ps(sum, x);
    }

    // Values of successive tokens side by side, (count / 2, size); one without a second has a zero there.
    void pair_up(const uint16_t* values, int64_t count) {
        const __m512i first = in_turn(0, 32), last = in_turn(16, 32);
        for (int64_t k = 0; k < count; k += 2)
            for (int64_t d = 0; d < size_; d += 32) {
                const __m512i one = _mm512_loadu_si512(values + k * size_ + d);
                const __m512i other =
                    k + 1 < count ? _mm512_loadu_si512(values + (k + 1) * size_ + d) : _mm512_setzero_si512();
                uint32_t* to = values_ + k / 2 * size_ + d;
                _mm512_storeu_si512(to, _mm512_permutex2var_epi16(one, first, other));
                _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(one, last, other));
            }
    }

    // 16 pairs of places: from ``first`` on, and ``second`` further.
    static __m512i in_turn(int first, int second) {
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        return _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(0x10001)),
                                _mm512_set1_epi32(first | (first + second) << 16));
    }

    const Asked& asked_;
    const int64_t first_, size_;
    float *scores_, *results_;                // (KEYS, V * ACROSS), (size, V * ACROSS)
    uint32_t *queries_, *weights_, *values_;  // (size / 2, V * ACROSS), (KEYS / 2, V * ACROSS), (KEYS / 2, size)
    __m512i position_[V], begin_[V];
    __m512 most_[V], mass_[V];
};

// Many query tokens of one slot.
inline void attend_many_pairs(const Strided<at::BFloat16>& q, const at::BFloat16* keys, const at::BFloat16* values,
                              const Segment& segment, const Heads& heads, const Rule& rule, at::BFloat16* out) {
    const int64_t vectors = (segment.count * heads.query / heads.key + ACROSS - 1) / ACROSS;
    const int64_t blocks = (vectors + WIDTH - 1) / WIDTH;
    Pool::get().parallel(heads.key * blocks, 1, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; ++task) {
            const int64_t head = task / blocks, block = task % blocks;
            const int64_t place = (segment.slot * heads.key + head) * heads.context * heads.size;
            const int64_t first = vectors * block / blocks, width = vectors * (block + 1) / blocks - first;
            const Asked asked{q, segment, heads, rule, head * heads.query / heads.key};
            const auto attend = [&](auto count) {
                Columns<count> columns(asked, first * ACROSS);
                columns.attend(keys + place, values + place);
                columns.give(out);
            };
            if (width == 3) attend(std::integral_constant<int, 3>{});
            if (width == 2) attend(std::integral_constant<int, 2>{});
            if (width == 1) attend(std::integral_constant<int, 1>{});
        }
    });
}

}  // namespace

#endif
