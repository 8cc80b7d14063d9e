// Where packed weights lie, for both forms: writes rows into their blocks, and reads a row back.

#pragma once

#include "common.h"

namespace {

enum Form : int64_t { LANES = 1, TILES = 2 };  // as Python's Form names them

// A group of a block: its quants, then 16 scales and 16 minima in half precision.
struct Packing {
    int64_t form, bits;

    int64_t quants() const { return GROUP * BLOCK * bits / 8; }
    int64_t bytes() const { return quants() + 4 * BLOCK; }

    // The 32 quants of one output into their places, which hold zeros.
    void put(uint8_t* group, int64_t output, const uint8_t* from) const {
        if (bits == 8) {
            if (form == TILES) std::memcpy(group + output * GROUP, from, GROUP);
            else
                for (int64_t quad = 0; quad < 8; ++quad) std::memcpy(group + quad * 64 + output * 4, from + quad * 4, 4);
        } else if (form == TILES) {
            for (int64_t k = 0; k < GROUP / 2; ++k)
                group[output * GROUP / 2 + k] = static_cast<uint8_t>(from[k] | from[k + GROUP / 2] << 4);
        } else {
            for (int64_t pair = 0; pair < 4; ++pair) {
                uint32_t low, high;
                std::memcpy(&low, from + pair * 8, 4);
                std::memcpy(&high, from + pair * 8 + 4, 4);
                const uint32_t both = (low & 0x0F0F0F0F) | (high & 0x0F0F0F0F) << 4;
                std::memcpy(group + pair * 64 + output * 4, &both, 4);
                if (bits == 5) {
                    group[256 + pair * 16 + output / 2] |= fifths(low) << output % 2 * 4;
                    group[256 + pair * 16 + 8 + output / 2] |= fifths(high) << output % 2 * 4;
                }
            }
        }
    }

    // What ``put`` wrote.
    void take(const uint8_t* group, int64_t output, uint8_t* to) const {
        for (int64_t k = 0; k < GROUP; ++k) {
            const int64_t quad = k / 4, byte = output * 4 + k % 4;
            if (form == TILES)
                to[k] = bits == 8 ? group[output * GROUP + k] : group[output * 16 + k % 16] >> k / 16 * 4 & 15;
            else if (bits == 8)
                to[k] = group[quad * 64 + byte];
            else
                to[k] = group[quad / 2 * 64 + byte] >> quad % 2 * 4 & 15;
            if (form == LANES && bits == 5) to[k] |= (group[256 + quad * 8 + byte / 8] >> byte % 8 & 1) << 4;
        }
    }

    // The fifth bits of four quants, side by side.
    static uint8_t fifths(uint32_t quants) { return static_cast<uint8_t>((quants >> 4 & 0x01010101) * 0x10204080 >> 28); }
};

// Writes quants (n, G, 32), scales and minima (n, G) of half precision into the rows of ``packed`` from ``first`` on, a
// tensor (blocks, G, bytes) of zeros.
void pack(const at::Tensor& packed, int64_t first, const at::Tensor& quants, const at::Tensor& scales,
          const at::Tensor& minima, int64_t form, int64_t bits) {
    const Packing packing{form, bits};
    const int64_t rows = quants.size(0), groups = packed.size(1);
    TORCH_CHECK(packed.size(2) == packing.bytes() && quants.size(1) == groups && quants.size(2) == GROUP &&
                    scales.numel() == rows * groups && minima.numel() == rows * groups,
                "the parts of packed weights do not fit together");
    TORCH_CHECK(first >= 0 && first + rows <= packed.size(0) * BLOCK, "the rows are not all among the packed ones");
    const at::Tensor q = quants.contiguous(), scale = scales.contiguous(), minimum = minima.contiguous();
    const uint8_t* from = q.data_ptr<uint8_t>();
    const at::Half* scales_from = scale.data_ptr<at::Half>();
    const at::Half* minima_from = minimum.data_ptr<at::Half>();
    uint8_t* to = packed.data_ptr<uint8_t>();
    const int64_t blocks_from = first / BLOCK, blocks_to = (first + rows + BLOCK - 1) / BLOCK;
    Pool::get().parallel(blocks_to - blocks_from, 1, [&](int64_t begin, int64_t end) {
        const int64_t last = std::min(first + rows, (blocks_from + end) * BLOCK);
        for (int64_t row = std::max(first, (blocks_from + begin) * BLOCK); row < last; ++row) {
            for (int64_t g = 0; g < groups; ++g) {
                uint8_t* group = to + (row / BLOCK * groups + g) * packing.bytes();
                const int64_t at = (row - first) * groups + g;
                packing.put(group, row % BLOCK, from + at * GROUP);
                auto* factors = reinterpret_cast<at::Half*>(group + packing.quants());
                factors[row % BLOCK] = scales_from[at];
                factors[BLOCK + row % BLOCK] = minima_from[at];
            }
        }
    });
}

// The rows of packed weights (N, K) that the tokens name: (..., K) in ``dtype``.
template <typename T>
void rows_of(const at::Tensor& tokens, const at::Tensor& weights, Packing packing, at::Tensor& out) {
    const int64_t groups = weights.size(1), count = tokens.numel();
    const int64_t* token = tokens.data_ptr<int64_t>();
    const uint8_t* from = weights.data_ptr<uint8_t>();
    T* to = out.data_ptr<T>();
    Pool::get().parallel(count, 16, [&](int64_t begin, int64_t end) {
        uint8_t quants[GROUP];
        for (int64_t n = begin; n < end; ++n) {
            for (int64_t g = 0; g < groups; ++g) {
                const int64_t output = token[n] % BLOCK;
                const uint8_t* group = from + (token[n] / BLOCK * groups + g) * packing.bytes();
                const auto* factors = reinterpret_cast<const at::Half*>(group + packing.quants());
                const float scale = factors[output], minimum = factors[BLOCK + output];
                packing.take(group, output, quants);
                T* row = to + (n * groups + g) * GROUP;
                for (int64_t k = 0; k < GROUP; ++k) row[k] = static_cast<T>(quants[k] * scale + minimum);
            }
        }
    });
}

at::Tensor embedding(const at::Tensor& tokens, const at::Tensor& weights, int64_t form, int64_t bits, int64_t outputs,
                     at::ScalarType dtype) {
    const at::Tensor ids = tokens.contiguous();
    const int64_t* id = ids.data_ptr<int64_t>();
    TORCH_CHECK(std::all_of(id, id + ids.numel(), [&](int64_t each) { return each >= 0 && each < outputs; }),
                "a token is not in the vocabulary");
    auto shape = tokens.sizes().vec();
    shape.push_back(weights.size(1) * GROUP);
    at::Tensor out = at::empty(shape, at::TensorOptions().dtype(dtype));
    if (dtype == at::kBFloat16)
        rows_of<at::BFloat16>(ids, weights, Packing{form, bits}, out);
    else
        rows_of<float>(ids, weights, Packing{form, bits}, out);
    return out;
}

}  // namespace
