// What is computed row by row: norms, positions, gates, the likeliest token.

#pragma once

#include "heads.h"

namespace {

template <typename T>
void rms_norm_of(const at::Tensor& x, const at::Tensor& weight, double eps, bool centred, at::Tensor& y) {
    const int64_t size = x.size(-1), rows = x.numel() / size;
    const T* from = x.data_ptr<T>();
    const T* factors = weight.data_ptr<T>();
    T* to = y.data_ptr<T>();
    Pool::get().parallel(rows, std::max<int64_t>(1, GRAIN / size), [&](int64_t first, int64_t last) {
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
    Pool::get().parallel(tokens, std::max<int64_t>(1, GRAIN / (heads * size)), [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
            const T *cos_of = c + n * size, *sin_of = s + n * size;
            for (int64_t h = 0; h < heads; ++h) {
                const T* in = from.at(h, n);
                T* out = to.at(h, n);
                int64_t d = 0;
                for (; d + Vec::size() <= half; d += Vec::size()) {
                    const Vec low = load(in + d), high = load(in + half + d);
                    store(low * load(cos_of + d) - high * load(sin_of + d), out + d);
                    store(high * load(cos_of + half + d) + low * load(sin_of + half + d), out + half + d);
                }
                for (; d < half; ++d) {
                    const float low = static_cast<float>(in[d]), high = static_cast<float>(in[d + half]);
                    out[d] = static_cast<T>(low * static_cast<float>(cos_of[d]) - high * static_cast<float>(sin_of[d]));
                    out[d + half] = static_cast<T>(high * static_cast<float>(cos_of[half + d]) +
                                                   low * static_cast<float>(sin_of[half + d]));
                }
            }
        }
    });
}

template <typename T>
void gate_of(const at::Tensor& x, at::Tensor& y) {
    const int64_t size = y.size(-1), rows = y.numel() / size;
    const T* from = x.data_ptr<T>();
    T* to = y.data_ptr<T>();
    Pool::get().parallel(rows, std::max<int64_t>(1, GRAIN / size), [&](int64_t first, int64_t last) {
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

template <typename T>
void add_run(const T* a, const T* b, T* to, int64_t count) {
    int64_t i = 0;
    for (; i + Vec::size() <= count; i += Vec::size()) store(load(a + i) + load(b + i), to + i);
    for (; i < count; ++i) to[i] = static_cast<T>(static_cast<float>(a[i]) + static_cast<float>(b[i]));
}

// ``other`` is as large as x, or as one of its rows.
template <typename T>
void add_of(const at::Tensor& x, const at::Tensor& other, at::Tensor& y) {
    const T* a = x.data_ptr<T>();
    const T* b = other.data_ptr<T>();
    T* to = y.data_ptr<T>();
    if (other.dim() == x.dim()) {
        Pool::get().parallel(x.numel(), GRAIN, [&](int64_t i, int64_t last) { add_run(a + i, b + i, to + i, last - i); });
        return;
    }
    const int64_t size = other.numel();
    Pool::get().parallel(x.numel() / size, std::max<int64_t>(1, GRAIN / size), [&](int64_t row, int64_t last) {
        for (; row < last; ++row) add_run(a + row * size, b, to + row * size, size);
    });
}

// The place of the first largest value of each row.
template <typename T>
void argmax_of(const at::Tensor& x, int64_t* to) {
    const int64_t size = x.size(-1), rows = x.numel() / size;
    const T* from = x.data_ptr<T>();
    Pool::get().parallel(rows, std::max<int64_t>(1, GRAIN * 8 / size), [&](int64_t first, int64_t last) {
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

// In place: numbers, as their bits, become ``lowest`` where a bit of the row's mask is 0.
template <typename T>
void rule_out_of(T* line, const uint32_t* mask, int64_t size, T lowest) {
    for (int64_t word = 0; word * 32 < size; ++word) {
        const uint32_t bits = mask[word];
        T* to = line + word * 32;
        if (bits == ~uint32_t(0)) continue;
        if (word * 32 + 32 <= size) {
            for (int bit = 0; bit < 32; ++bit) to[bit] = (bits >> bit) & 1 ? to[bit] : lowest;
        } else {
            for (int64_t bit = 0; word * 32 + bit < size; ++bit) to[bit] = (bits >> bit) & 1 ? to[bit] : lowest;
        }
    }
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

// x + other, of one shape or a row of x's. PyTorch's takes microseconds to find out how to add a few hundred numbers.
at::Tensor add(const at::Tensor& x, const at::Tensor& other) {
    const bool fits = x.sizes() == other.sizes() || (other.dim() == 1 && x.dim() > 1 && other.size(0) == x.size(-1));
    TORCH_CHECK(fits && x.scalar_type() == other.scalar_type(), "they differ in shape or type");
    const at::Tensor a = x.contiguous(), b = other.contiguous();
    at::Tensor y = at::empty_like(a);
    by_type(a, [&](auto type) { add_of<decltype(type)>(a, b, y); });
    return y;
}

// Columns ``begin`` to ``end`` of x (1, N, W) as heads: (1, heads, N, size), a view.
at::Tensor heads(const at::Tensor& x, int64_t begin, int64_t end, int64_t size) {
    TORCH_CHECK(x.dim() == 3 && x.size(0) == 1 && x.stride(2) == 1 && (end - begin) % size == 0, "no heads of this size");
    return x.as_strided({1, (end - begin) / size, x.size(1), size}, {x.stride(0), size, x.stride(1), 1},
                        x.storage_offset() + begin);
}

// x (..., 2 * size), gate then up: silu(gate) * up, (..., size).
at::Tensor gate(const at::Tensor& x) {
    auto shape = x.sizes().vec();
    shape.back() /= 2;
    at::Tensor y = at::empty(shape, x.options());
    by_type(x, [&](auto type) { gate_of<decltype(type)>(x, y); });
    return y;
}

// In place: logits (N, V) of tokens whose bits are 0 in masks (N, >= V / 32), int32, become -infinity.
void rule_out(const at::Tensor& logits, const at::Tensor& masks) {
    const int64_t size = logits.size(-1), words = masks.size(-1);
    TORCH_CHECK(logits.is_contiguous() && masks.is_contiguous() && masks.scalar_type() == at::kInt, "rows and masks");
    TORCH_CHECK(masks.size(0) == logits.size(0) && words * 32 >= size, "a mask has a bit for each logit");
    const auto* from = reinterpret_cast<const uint32_t*>(masks.data_ptr<int32_t>());
    for (int64_t row = 0; row < logits.size(0); ++row) {
        const uint32_t* mask = from + row * words;
        if (logits.scalar_type() == at::kBFloat16)
            rule_out_of(static_cast<uint16_t*>(logits.data_ptr()) + row * size, mask, size, uint16_t(0xff80));
        else
            rule_out_of(static_cast<uint32_t*>(logits.data_ptr()) + row * size, mask, size, uint32_t(0xff800000));
    }
}

// x (N, V): the place of the first largest value of each row, (N); 0 where a row holds none.
at::Tensor argmax(const at::Tensor& input) {
    const at::Tensor x = input.contiguous();
    at::Tensor y = at::empty({x.size(0)}, x.options().dtype(at::kLong));
    by_type(x, [&](auto type) { argmax_of<decltype(type)>(x, y.data_ptr<int64_t>()); });
    return y;
}
