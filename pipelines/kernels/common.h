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

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t GROUP = 32;   // inputs that share a scale
constexpr int64_t BLOCK = 16;   // outputs computed side by side: the lanes of a vector
constexpr float OUTWEIGHS = 16;  // times the root mean square of its group
constexpr int64_t GRAIN = 16384;  // elements worth a thread, where little is done with each
constexpr int64_t AHEAD = 4096;  // bytes that are fetched before they are used
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

#if defined(__AVX512F__)
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

// What ``join`` makes of the 16 elements of each of 16 vectors, such as their sum; it must not mind their order.
template <typename F>
inline __m512 across(const __m512 (&v)[16], const F& join) {
    __m512 a[8], b[4];
    for (int i = 0; i < 8; ++i) {
        const __m512 x = v[2 * i], y = v[2 * i + 1];
        a[i] = join(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
    }
    for (int i = 0; i < 4; ++i) {
        const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
        b[i] = join(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    for (int i = 0; i < 4; i += 2)
        b[i / 2] = join(_mm512_shuffle_f32x4(b[i], b[i + 1], 0x88), _mm512_shuffle_f32x4(b[i], b[i + 1], 0xDD));
    return join(_mm512_shuffle_f32x4(b[0], b[1], 0x88), _mm512_shuffle_f32x4(b[0], b[1], 0xDD));
}
#endif

}  // namespace
