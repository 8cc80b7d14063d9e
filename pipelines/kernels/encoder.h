// A BERT encoder of packed texts, all layers in one call: none of Python's lock, and no operator but the products.
//
// Tokens of several texts follow each other without padding, and each is computed alone, so what a text gets does not
// depend on its company. (With matrix tiles a token that is alone sums in another order.)

#pragma once

#include <torch/custom_class.h>

#include "attention.h"
#include "products.h"

namespace {

// The attention of one text to itself, by heads of SIZE dimensions.
class TextAttention {
public:
    static constexpr int64_t SIZE = 32;

    // projected (tokens, 3 * width): queries, keys and values of all heads. Adds ``bias`` (width) to the queries. What a
    // bias adds to the keys changes no weight, and what it adds to the values belongs to the bias of what comes next.
    TextAttention(const float* projected, const float* bias, int64_t length, int64_t width)
        : projected_(projected), bias_(bias), length_(length), width_(width), padded_((length + 15) / 16 * 16) {
        thread_local std::vector<float> space;
        space.resize(2 * SIZE * padded_ + QUERIES * (SIZE + padded_));
        keys_ = space.data();
        values_ = keys_ + SIZE * padded_;
        queries_ = values_ + SIZE * padded_;
        scores_ = queries_ + QUERIES * SIZE;
    }

    // Into mixed (tokens, width).
    void attend(float* mixed) {
        for (int64_t head = 0; head < width_; head += SIZE) {
            gather(head);
            for (int64_t first = 0; first < length_; first += QUERIES)
                some_queries(first, std::min(QUERIES, length_ - first), head, mixed);
        }
    }

private:
    static constexpr int64_t LANES = Vec::size(), PARTS = SIZE / LANES;
    static constexpr int64_t QUERIES = LANES == 16 ? 8 : 2, ACROSS = 2;  // whose scores registers hold: queries, vectors of keys

    // Keys by dimension, (SIZE, padded), and values by token, (length, SIZE).
    void gather(int64_t head) {
        for (int64_t t = 0; t < length_; ++t) {
            const float* key = projected_ + t * 3 * width_ + width_ + head;
            for (int64_t d = 0; d < SIZE; ++d) keys_[d * padded_ + t] = key[d];
            std::copy_n(key + width_, SIZE, values_ + t * SIZE);
        }
        for (int64_t d = 0; d < SIZE; ++d) std::fill(keys_ + d * padded_ + length_, keys_ + (d + 1) * padded_, 0.0f);
    }

    void some_queries(int64_t first, int64_t count, int64_t head, float* mixed) {
        const float scale = 1.0f / std::sqrt(static_cast<float>(SIZE));
        for (int64_t n = 0; n < QUERIES; ++n) {
            const float* query = projected_ + (first + std::min(n, count - 1)) * 3 * width_ + head;
            for (int64_t d = 0; d < SIZE; ++d) queries_[n * SIZE + d] = (query[d] + bias_[head + d]) * scale;
        }
        int64_t key = 0;
        for (; key + ACROSS * LANES <= padded_; key += ACROSS * LANES) score<ACROSS>(key);
        for (; key < padded_; key += LANES) score<1>(key);
        float share[QUERIES];
        for (int64_t n = 0; n < count; ++n) share[n] = softmax(scores_ + n * padded_, length_, padded_, Rule{1.0, 0, 0.0});
        Vec sum[QUERIES][PARTS];
        for (auto& of_query : sum)
            for (Vec& part : of_query) part = Vec(0.0f);
        for (int64_t t = 0; t < length_; ++t) {
            Vec value[PARTS];
            for (int64_t part = 0; part < PARTS; ++part) value[part] = once(values_ + t * SIZE + part * LANES);
            for (int64_t n = 0; n < QUERIES; ++n) {
                const Vec weight(scores_[n * padded_ + t]);
                for (int64_t part = 0; part < PARTS; ++part) sum[n][part] = at::vec::fmadd(weight, value[part], sum[n][part]);
            }
        }
        for (int64_t n = 0; n < count; ++n)
            for (int64_t part = 0; part < PARTS; ++part)
                store(sum[n][part] * Vec(share[n]), mixed + (first + n) * width_ + head + part * LANES);
    }

    // Loaded into a register, or the compiler loads it again for each query.
    static Vec once(const float* from) {
#if defined(CPU_CAPABILITY_AVX512)
        __m512 loaded = _mm512_loadu_ps(from);
        asm("" : "+v"(loaded));
        return loaded;
#else
        return load(from);
#endif
    }

    template <int64_t V>
    void score(int64_t key) {
        Vec sum[QUERIES][V];
        for (auto& of_query : sum)
            for (Vec& each : of_query) each = Vec(0.0f);
        for (int64_t d = 0; d < SIZE; ++d) {
            Vec keys[V];
            for (int64_t v = 0; v < V; ++v) keys[v] = once(keys_ + d * padded_ + key + v * LANES);
            for (int64_t n = 0; n < QUERIES; ++n) {
                const Vec query(queries_[n * SIZE + d]);
                for (int64_t v = 0; v < V; ++v) sum[n][v] = at::vec::fmadd(query, keys[v], sum[n][v]);
            }
        }
        for (int64_t n = 0; n < QUERIES; ++n)
            for (int64_t v = 0; v < V; ++v) store(sum[n][v], scores_ + n * padded_ + key + v * LANES);
    }

    const float *projected_, *bias_;
    const int64_t length_, width_, padded_;
    float *keys_, *values_, *queries_, *scores_;
};

// Rows (rows, width) of hidden + y + bias, normalised to mean 0 and variance 1, times weight, plus shift: into hidden.
inline void add_and_normalise(float* hidden, const float* y, const float* bias, const float* weight, const float* shift,
                              int64_t rows, int64_t width, double epsilon) {
    constexpr int64_t LANES = Vec::size();
    for (int64_t row = 0; row < rows; ++row, hidden += width, y += width) {
        Vec sum(0.0f), squares(0.0f);
        for (int64_t i = 0; i < width; i += LANES) {
            const Vec x = load(hidden + i) + load(y + i) + load(bias + i);
            store(x, hidden + i);
            sum = sum + x;
        }
        const Vec mean(total(sum) / static_cast<float>(width));
        for (int64_t i = 0; i < width; i += LANES) {
            const Vec x = load(hidden + i) - mean;
            squares = at::vec::fmadd(x, x, squares);
        }
        const Vec inverse(1.0f / std::sqrt(total(squares) / static_cast<float>(width) + static_cast<float>(epsilon)));
        for (int64_t i = 0; i < width; i += LANES)
            store(at::vec::fmadd((load(hidden + i) - mean) * inverse, load(weight + i), load(shift + i)), hidden + i);
    }
}

// The exact GELU of x + bias, in place, (rows, width).
inline void gelu(float* x, const float* bias, int64_t rows, int64_t width) {
    const Vec half(0.5f), root(static_cast<float>(M_SQRT1_2)), one(1.0f);
    for (int64_t row = 0; row < rows; ++row, x += width)
        for (int64_t i = 0; i < width; i += Vec::size()) {
            const Vec given = load(x + i) + load(bias + i);
            store(given * half * (one + (given * root).erf()), x + i);
        }
}

// See encoder.py for what its tensors are. Not for two threads at a time.
class Encoder : public torch::CustomClassHolder {
public:
    Encoder(std::vector<at::Tensor> tensors, int64_t form, double epsilon)
        : tensors_(std::move(tensors)), form_(form), epsilon_(epsilon) {
        const auto count = static_cast<int64_t>(tensors_.size());
        TORCH_CHECK(count > BEFORE && (count - BEFORE) % OF_LAYER == 0, "an encoder has other tensors");
        width_ = tensors_[0].size(1);
        TORCH_CHECK(width_ % TextAttention::SIZE == 0, "the heads have another size");
        for (int64_t n = 0; n < count; ++n) check(n);
    }

    // words (N, width) float32 of texts that have ``lengths`` tokens each: their tokens' embeddings, (N, width). Where
    // ``alone``, the calling thread computes all of it, and leaves the others to those who have more to do.
    at::Tensor run(const at::Tensor& words, const std::vector<int64_t>& lengths, bool alone) const {
        const Pool::Alone only(alone);
        TORCH_CHECK(words.scalar_type() == at::kFloat && words.dim() == 2 && words.size(1) == width_, "these are no words");
        int64_t tokens = 0;
        for (const int64_t length : lengths) {
            TORCH_CHECK(length > 0 && length <= tensors_[0].size(0), "a text has no tokens, or too many");
            tokens += length;
        }
        TORCH_CHECK(tokens == words.size(0), "the texts have other lengths");
        const at::Tensor given = words.contiguous();
        at::Tensor hidden = at::empty_like(given);
        float* to = hidden.data_ptr<float>();
        for (const int64_t length : lengths) {
            std::copy_n(numbers(0), length * width_, to);
            to += length * width_;
        }
        const std::vector<float> none(width_);
        normalise(hidden, given, none.data(), 1, 2);
        for (int64_t first = BEFORE; first < static_cast<int64_t>(tensors_.size()); first += OF_LAYER)
            layer(hidden, lengths, first);
        return hidden;
    }

private:
    static constexpr int64_t BEFORE = 3, OF_LAYER = 12;

    void layer(at::Tensor& hidden, const std::vector<int64_t>& lengths, int64_t first) const {
        const at::Tensor projected = linear(hidden, tensors_[first], form_, 3 * width_);
        at::Tensor mixed = at::empty_like(hidden);
        const float* from = projected.data_ptr<float>();
        float* to = mixed.data_ptr<float>();
        for (const int64_t length : lengths) {
            TextAttention(from, numbers(first + 1), length, width_).attend(to);
            from += length * 3 * width_;
            to += length * width_;
        }
        normalise(hidden, linear(mixed, tensors_[first + 2], form_, width_), numbers(first + 3), first + 4, first + 5);
        const int64_t inner = tensors_[first + 7].size(0);
        const at::Tensor up = linear(hidden, tensors_[first + 6], form_, inner);
        gelu(up.data_ptr<float>(), numbers(first + 7), up.size(0), inner);
        normalise(hidden, linear(up, tensors_[first + 8], form_, width_), numbers(first + 9), first + 10, first + 11);
    }

    void normalise(at::Tensor& hidden, const at::Tensor& y, const float* bias, int64_t weight, int64_t shift) const {
        add_and_normalise(hidden.data_ptr<float>(), y.data_ptr<float>(), bias, numbers(weight), numbers(shift),
                          hidden.size(0), width_, epsilon_);
    }

    const float* numbers(int64_t n) const { return tensors_[n].data_ptr<float>(); }

    void check(int64_t n) const {
        const at::Tensor& tensor = tensors_[n];
        const int64_t of_layer = (n - BEFORE) % OF_LAYER;
        TORCH_CHECK(tensor.is_contiguous() && tensor.device().is_cpu(), "the tensors lie elsewhere");
        if (n >= BEFORE && (of_layer == 0 || of_layer == 2 || of_layer == 6 || of_layer == 8)) {
            TORCH_CHECK(tensor.scalar_type() == at::kByte && tensor.dim() == 3, "these are no packed weights");
        } else {
            const int64_t size = n >= BEFORE && of_layer == 7 ? tensor.numel() : width_;
            TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.size(-1) == size && size % GROUP == 0,
                        "these are no numbers of an encoder");
        }
    }

    std::vector<at::Tensor> tensors_;
    int64_t form_, width_ = 0;
    double epsilon_;
};

}  // namespace
