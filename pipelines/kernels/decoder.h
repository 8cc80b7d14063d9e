// Attention of encoder-decoders: of a text to itself with a bias by distance, and of a decoder to the encoder's output.

#pragma once

#include "attention.h"

namespace {

// One head of one token against keys and values (length, size), whatever the size.
template <typename T>
void attend_plain(const T* query, const T* keys, const T* values, int64_t length, int64_t size, const Rule& rule, T* out,
                  std::vector<float>& space) {
    const int64_t padded = (length + 15) / 16 * 16;
    space.resize(padded);
    for (int64_t j = 0; j < length; ++j) {
        float sum = 0;
        for (int64_t d = 0; d < size; ++d)
            sum += static_cast<float>(query[d]) * static_cast<float>(keys[j * size + d]);
        space[j] = sum * static_cast<float>(rule.scale) + (rule.bias ? rule.bias[j] : 0.0f);
    }
    const float share = softmax(space.data(), length, padded, rule);
    for (int64_t d = 0; d < size; ++d) {
        float sum = 0;
        for (int64_t j = 0; j < length; ++j) sum += space[j] * static_cast<float>(values[j * size + d]);
        out[d] = static_cast<T>(sum * share);
    }
}

// Every token alone, each head with as many keys as ``length(segment, token in it)`` says, which come first in its slot.
template <typename T, typename Length, typename Bias>
void attend_each(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, const at::Tensor& segments,
                 double scale, const Length& length, const Bias& bias, at::Tensor& out) {
    const int64_t heads = q.size(1), size = q.size(3), context = keys.size(2);
    const Strided<T> query(q);
    const T* all_keys = keys.data_ptr<T>();
    const T* all_values = values.data_ptr<T>();
    T* result = out.data_ptr<T>();
    const int32_t* table = segments.data_ptr<int32_t>();
    std::vector<std::pair<Segment, int64_t>> each;  // (segment, token in it)
    for (int64_t s = 1; s <= table[0]; ++s) {
        const int32_t* row = table + 4 * s;
        for (int64_t t = 0; t < row[1]; ++t) each.push_back({Segment{row[0], row[1], row[2], row[3]}, t});
    }
    const int64_t parts = size % Vec::size() ? 0 : size / Vec::size();
    Pool::get().parallel(static_cast<int64_t>(each.size()) * heads, 1, [&](int64_t from, int64_t to) {
        thread_local std::vector<float> space;
        for (int64_t task = from; task < to; ++task) {
            const auto& [segment, t] = each[task / heads];
            const int64_t h = task % heads, token = segment.offset + t, count = length(segment, t);
            const int64_t place = (segment.slot * heads + h) * context * size;
            const Rule rule{scale, 0, 0.0, bias(segment, t, h)};
            T* row = result + token * heads * size;
            const auto attend = [&](auto width) {
                attend_heads<T, width, 1>(query, all_keys + place, all_values + place, count, rule, token, h, row, space);
            };
            switch (parts) {
                case 2: attend(std::integral_constant<int, 2>{}); break;
                case 4: attend(std::integral_constant<int, 4>{}); break;
                case 8: attend(std::integral_constant<int, 8>{}); break;
                default:
                    attend_plain<T>(query.at(h, token), all_keys + place, all_values + place, count, size, rule,
                                    row + h * size, space);
            }
        }
    });
}

inline at::Tensor dense_heads(const at::Tensor& t) { return t.stride(-1) == 1 ? t : t.contiguous(); }

inline at::Tensor room_for(const at::Tensor& q) {
    return at::zeros({1, q.size(2), q.size(1), q.size(3)}, q.options());
}

template <typename T>
void write_tokens(const at::Tensor& k, const at::Tensor& v, const at::Tensor& keys, const at::Tensor& values,
                  const at::Tensor& segments) {
    const Strided<T> key(k), value(v);
    const int64_t heads = k.size(1), size = k.size(3), context = keys.size(2);
    const int32_t* table = segments.data_ptr<int32_t>();
    for (int64_t s = 1; s <= table[0]; ++s) {
        const int32_t* row = table + 4 * s;
        TORCH_CHECK(row[3] + row[1] <= context, "a text outgrows its slot");
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t t = 0; t < row[1]; ++t) {
                const int64_t to = ((row[2] * heads + h) * context + row[3] + t) * size;
                std::copy_n(key.at(h, row[0] + t), size, keys.data_ptr<T>() + to);
                std::copy_n(value.at(h, row[0] + t), size, values.data_ptr<T>() + to);
            }
    }
}

// As ``attention``, with as many key heads as query heads, and with ``bias`` (heads, context) float32 added to the scores:
// its last column belongs to the token itself, the one before to the token before it.
at::Tensor biased_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& keys,
                            const at::Tensor& values, const at::Tensor& segments, const at::Tensor& bias, double scale) {
    at::Tensor out = room_for(q);
    const int64_t context = bias.size(1);
    const float* biases = bias.data_ptr<float>();
    const auto length = [](const Segment& segment, int64_t t) { return segment.start + t + 1; };
    const auto of = [&](const Segment& segment, int64_t t, int64_t h) {
        return biases + (h + 1) * context - (segment.start + t + 1);
    };
    const at::Tensor query = dense_heads(q), key = dense_heads(k), value = dense_heads(v);
    if (q.scalar_type() == at::kBFloat16) {
        write_tokens<at::BFloat16>(key, value, keys, values, segments);
        attend_each<at::BFloat16>(query, keys, values, segments, scale, length, of, out);
    } else {
        write_tokens<float>(key, value, keys, values, segments);
        attend_each<float>(query, keys, values, segments, scale, length, of, out);
    }
    return out;
}

// q (1, heads, N, size) of N packed tokens attends to keys and values (slots, heads, input, size) of the encoder's output,
// of which slot n has the first ``lengths[n]`` (int32). Returns (1, N, heads, size).
at::Tensor cross_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                           const at::Tensor& segments, const at::Tensor& lengths, double scale) {
    at::Tensor out = room_for(q);
    const int32_t* inputs = lengths.data_ptr<int32_t>();
    const auto length = [&](const Segment& segment, int64_t) { return static_cast<int64_t>(inputs[segment.slot]); };
    const auto none = [](const Segment&, int64_t, int64_t) { return static_cast<const float*>(nullptr); };
    const at::Tensor query = dense_heads(q);
    if (q.scalar_type() == at::kBFloat16)
        attend_each<at::BFloat16>(query, keys, values, segments, scale, length, none, out);
    else
        attend_each<float>(query, keys, values, segments, scale, length, none, out);
    return out;
}

// What is added to the scores of one head, (1, 1, length, length): of ``bias`` (2 M - 1) by the distance from query to key.
template <typename T>
at::Tensor mask_by_distance(const float* bias, int64_t middle, int64_t length, const at::TensorOptions& options) {
    at::Tensor mask = at::empty({1, 1, length, length}, options);
    T* line = mask.data_ptr<T>();
    for (int64_t i = 0; i < length; ++i)
        for (int64_t j = 0; j < length; ++j) *line++ = static_cast<T>(bias[middle + j - i]);
    return mask;
}

// q, k and v (1, heads, N, size) of packed texts, each of which attends to all of itself; ``bias`` (heads, 2 M - 1) float32
// is added to the scores, from the distance 1 - M to M - 1, if it is not empty. Returns (1, N, heads, size).
at::Tensor encoder_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& segments,
                             const at::Tensor& bias, double scale) {
    at::Tensor out = room_for(q);
    const int64_t heads = q.size(1), width = bias.numel() ? bias.size(1) : 0;
    const int32_t* table = segments.data_ptr<int32_t>();
    Pool::get().parallel(table[0] * heads, 1, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; ++task) {
            const int32_t* row = table + 4 * (1 + task / heads);
            const int64_t h = task % heads, begin = row[0], length = row[1];
            const auto of = [&](const at::Tensor& t) { return t.slice(1, h, h + 1).slice(2, begin, begin + length); };
            std::optional<at::Tensor> mask;
            if (width) {
                const float* biases = bias.data_ptr<float>() + h * width;
                const int64_t middle = width / 2;
                mask = q.scalar_type() == at::kBFloat16
                           ? mask_by_distance<at::BFloat16>(biases, middle, length, q.options())
                           : mask_by_distance<float>(biases, middle, length, q.options());
            }
            const at::Tensor made = at::scaled_dot_product_attention(of(q), of(k), of(v), mask, 0.0, false, scale);
            out.select(0, 0).slice(0, begin, begin + length).select(1, h).copy_(made.select(0, 0).select(0, 0));
        }
    });
    return out;
}

}  // namespace
