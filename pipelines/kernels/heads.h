// What attention is about: heads, slots, and which tokens see which.

#pragma once

#include "common.h"

namespace {

struct Heads {
    int64_t query, key, size, context;
};

// What a call attends with: scale of the scores, sliding window (0: none), cap of the scores by tanh (0: none), and what
// is added to the score of each key (null: nothing).
struct Rule {
    double scale;
    int64_t window;
    double cap;
    const float* bias = nullptr;
};

template <typename T>
struct Strided {  // (1, heads, tokens, size) with the last dimension dense
    T* data;
    int64_t head, token;
    explicit Strided(const at::Tensor& t) : data(t.data_ptr<T>()), head(t.stride(1)), token(t.stride(2)) {}
    T* at(int64_t h, int64_t n) const { return data + h * head + n * token; }
};

// Tokens that follow each other in a slot.
struct Segment {
    int64_t offset, count, slot, start;
};

}  // namespace
