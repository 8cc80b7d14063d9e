// What all kernels share: sizes, vectors, and how work is divided among threads.

#pragma once

#include <ATen/ATen.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/cpu/vec/functional.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "pool.h"

namespace {

constexpr int64_t GROUP = 32;   // inputs that share a scale
constexpr int64_t BLOCK = 16;   // outputs computed side by side: the lanes of a vector
constexpr float OUTWEIGHS = 16;  // times the root mean square of its group
constexpr int64_t AHEAD = 4096;  // bytes of weights fetched before they are used
constexpr int64_t FEW = 8;      // query tokens a segment may have to be attended one by one

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

}  // namespace
