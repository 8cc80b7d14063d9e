// Products with weights in any of the forms that this processor can multiply with, and with weights as they are.

#pragma once

#include "lanes.h"
#include "tiles.h"

namespace {

// The forms of packed weights that this processor can multiply with, the fastest first.
std::vector<int64_t> forms() {
    std::vector<int64_t> found;
#ifdef LOQUENT_TILES
    if (tiles_allowed()) found.push_back(TILES);
#endif
#ifdef LOQUENT_LANES
    found.push_back(LANES);
#endif
    return found;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weights, int64_t form, int64_t outputs) {
    TORCH_CHECK(weights.size(1) * GROUP == x.size(-1) && outputs <= weights.size(0) * BLOCK, "these weights are not x's");
    const Packing packing = Packing::of(form, weights.size(2));
#ifdef LOQUENT_TILES
    if (form == TILES && tiles_allowed()) return linear_by_tiles(x, weights, packing, outputs);
#endif
#ifdef LOQUENT_LANES
    if (form == LANES) return linear_by_lanes(x, weights, packing, outputs);
#endif
    TORCH_CHECK(false, "this processor has no product with weights of form ", form);
}

// x (..., K) times weights (N, K) as they are: (..., N). PyTorch's own product, of some outputs on each thread.
at::Tensor dense(const at::Tensor& input, const at::Tensor& weights) {
    constexpr int64_t LEAST = 64;  // outputs worth a call
    TORCH_CHECK(weights.dim() == 2 && weights.size(1) == input.size(-1), "these weights are not x's");
    const at::Tensor x = input.reshape({-1, input.size(-1)});
    auto shape = input.sizes().vec();
    shape.back() = weights.size(0);
    at::Tensor y = at::empty(shape, input.options());
    const at::Tensor rows = y.view({-1, weights.size(0)});
    Pool::get().parallel(weights.size(0), LEAST, [&](int64_t from, int64_t to) {
        rows.slice(1, from, to).copy_(at::linear(x, weights.slice(0, from, to)));
    });
    return y;
}

}  // namespace
