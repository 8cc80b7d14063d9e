// Attention over slots.

#pragma once

#include "columns.h"
#include "heads.h"

namespace {

// The sums of 16 vectors.
inline void totals(const Vec (&v)[16], float* out) {
#if defined(CPU_CAPABILITY_AVX512)
    __m512 each[16];
    for (int i = 0; i < 16; ++i) each[i] = v[i];
    _mm512_storeu_ps(out, across(each, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); }));
#else
    for (int i = 0; i < 16; ++i) out[i] = total(v[i]);
#endif
}

// Scores to weights, in place; from ``length`` up to ``padded`` are zeros. Returns one over their sum.
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

// Asks for what will be read ``ahead`` bytes from here.
template <typename T>
inline void fetch(const T* from, int64_t count, int64_t ahead = AHEAD) {
    const auto* bytes = reinterpret_cast<const char*>(from) + ahead;
    for (int64_t at = 0; at < count * static_cast<int64_t>(sizeof(T)); at += 64) __builtin_prefetch(bytes + at);
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
            fetch(key, SIZE);
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
    if (rule.bias)
        for (int h = 0; h < HEADS; ++h)
            for (int64_t j = 0; j < length; ++j) scores[h * padded + j] += rule.bias[j];
    for (int64_t j = 0; j < 16; ++j) fetch(values + j * SIZE, SIZE, 0);
    float share[HEADS];
    for (int h = 0; h < HEADS; ++h) share[h] = softmax(scores + h * padded, length, padded, rule);
    Vec sum[HEADS][PARTS];
    for (int h = 0; h < HEADS; ++h)
        for (int i = 0; i < PARTS; ++i) sum[h][i] = Vec(0.0f);
    for (int64_t j = 0; j < length; ++j) {
        fetch(values + j * SIZE, SIZE);
        for (int i = 0; i < PARTS; ++i) {
            const Vec part = load(values + j * SIZE + i * LANES);
            for (int h = 0; h < HEADS; ++h) sum[h][i] = at::vec::fmadd(Vec(scores[h * padded + j]), part, sum[h][i]);
        }
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
    Pool::get().parallel(rows, std::max<int64_t>(1, 16384 / length), [&](int64_t first, int64_t last) {
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

// How many tokens of a segment are attended one by one, the last ones: all of few, and the last of many. A text that is
// continued behind its last token is then continued in the same way, bit by bit, when all before it is in the slot already.
int64_t one_by_one(const Heads& heads, const Segment& segment) {
    const int64_t parts = heads.size / Vec::size();
    const bool known = parts == 2 || parts == 4 || parts == 6 || parts == 8 || parts == 16;
    if (!known || heads.size % Vec::size()) return 0;
    return segment.count <= FEW ? segment.count : 1;
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
    const auto keep = [&](const Segment& segment, int64_t head, int64_t t) {
        const int64_t to = place(segment.slot, head, segment.start + t);
        std::copy_n(key.at(head, segment.offset + t), heads.size, all_keys + to);
        std::copy_n(value.at(head, segment.offset + t), heads.size, all_values + to);
    };
    std::vector<std::pair<int64_t, int64_t>> few;  // (segment, token in it)
    for (size_t s = 0; s < segments.size(); ++s) {
        const Segment& segment = segments[s];
        const int64_t last_ones = one_by_one(heads, segment);
        if (segment.count > 1 || !last_ones)  // else whoever attends the only one keeps it first
            for (int64_t h = 0; h < heads.key; ++h)
                for (int64_t t = 0; t < segment.count; ++t) keep(segment, h, t);
        for (int64_t t = segment.count - last_ones; t < segment.count; ++t) few.emplace_back(s, t);
    }
    const int64_t tasks = static_cast<int64_t>(few.size()) * heads.key;
    Pool::get().parallel(tasks, 1, [&](int64_t from, int64_t to) {
        thread_local std::vector<float> space;
        for (int64_t task = from; task < to; ++task) {
            const Segment& segment = segments[few[task / heads.key].first];
            const int64_t t = few[task / heads.key].second, h = task % heads.key, token = segment.offset + t;
            const T* of_keys = all_keys + place(segment.slot, h, 0);
            const T* of_values = all_values + place(segment.slot, h, 0);
            T* to_row = result + token * heads.query * heads.size;
            const int64_t position = segment.start + t;
            if (segment.count == 1) keep(segment, h, t);
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
    for (Segment segment : segments) {
        segment.count -= one_by_one(heads, segment);
        if (!segment.count) continue;
#ifdef LOQUENT_PAIRS
        if constexpr (std::is_same_v<T, at::BFloat16>)
            if (heads.size % 32 == 0) {
                attend_many_pairs(query, all_keys, all_values, segment, heads, rule, result);
                continue;
            }
#endif
        attend_many<T>(q, keys, values, segment, heads, rule, out);
    }
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
