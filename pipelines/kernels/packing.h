// Where packed weights lie, for both forms: writes rows into their blocks, and reads a row back.

#pragma once

#include "common.h"

namespace {

enum Form : int64_t { LANES = 1, TILES = 2 };  // as Python's Form names them

// What goes with the quants of a group: w = scale * q + minimum; scale * (q - half of the range); or the latter with a
// scale for each half of the group.
enum class Factors { MINIMUM, SIGNED, HALVES };

// A group of a block: its quants, then the factors of its 16 outputs in half precision. In LANES the fifth and the sixth
// bits of quants lie behind the lower four.
struct Packing {
    int64_t form, bits;
    Factors factors;

    // The packing of this form whose groups of a block take so many bytes.
    static Packing of(int64_t form, int64_t bytes) {
        static constexpr std::pair<int64_t, Factors> KNOWN[] = {
            {4, Factors::MINIMUM}, {8, Factors::MINIMUM}, {5, Factors::MINIMUM}, {4, Factors::SIGNED},
            {5, Factors::SIGNED},  {8, Factors::SIGNED},  {6, Factors::HALVES}};
        for (const auto& [bits, factors] : KNOWN) {
            const Packing packing{form, bits, factors};
            const bool both = factors == Factors::MINIMUM && bits != 5;
            if (packing.bytes() == bytes && (form == LANES || both)) return packing;
        }
        TORCH_CHECK(false, "no packed weights of form ", form, " have groups of ", bytes, " bytes");
    }

    int64_t quants() const { return GROUP * BLOCK * bits / 8; }
    int64_t count() const { return factors == Factors::SIGNED ? 1 : 2; }  // of factors
    int64_t bytes() const { return quants() + count() * 2 * BLOCK; }

    // What the quant ``k`` of an output is.
    float value(int64_t quant, int64_t k, const at::Half* of_block, int64_t output) const {
        const float scale = of_block[(factors == Factors::HALVES && k >= GROUP / 2 ? BLOCK : 0) + output];
        if (factors == Factors::MINIMUM) return scale * quant + of_block[BLOCK + output];
        return scale * (quant - (1 << (bits - 1)));
    }

    // The 32 quants of one output into their places, which hold zeros.
    void put(uint8_t* group, int64_t output, const uint8_t* from) const {
        if (bits == 8 && form == TILES) {
            std::memcpy(group + output * GROUP, from, GROUP);
        } else if (bits == 8) {
            for (int64_t quad = 0; quad < 8; ++quad) std::memcpy(group + quad * 64 + output * 4, from + quad * 4, 4);
        } else if (form == TILES) {
            for (int64_t k = 0; k < GROUP / 2; ++k)
                group[output * GROUP / 2 + k] = static_cast<uint8_t>(from[k] | from[k + GROUP / 2] << 4);
        } else {
            for (int64_t quad = 0; quad < 8; ++quad) {
                uint32_t four;
                std::memcpy(&four, from + quad * 4, 4);
                put_four(group + quad / 2 * 64 + output * 4, four << quad % 2 * 4, 0x0F0F0F0F << quad % 2 * 4);
                for (int64_t bit = 4; bit < bits; ++bit)
                    group[256 + (bit - 4) * 64 + quad * 8 + output / 2] |= bits_of(four >> bit) << output % 2 * 4;
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
            for (int64_t bit = 4; form == LANES && bits < 8 && bit < bits; ++bit)
                to[k] |= (group[256 + (bit - 4) * 64 + quad * 8 + byte / 8] >> byte % 8 & 1) << bit;
        }
    }

    static void put_four(uint8_t* to, uint32_t four, uint32_t where) {
        uint32_t there;
        std::memcpy(&there, to, 4);
        there |= four & where;
        std::memcpy(to, &there, 4);
    }

    // The lowest bits of four bytes, side by side.
    static uint8_t bits_of(uint32_t bytes) { return static_cast<uint8_t>((bytes & 0x01010101) * 0x10204080 >> 28); }
};

// Writes quants (n, G, 32) and their factors (n, G, factors), in half precision, into the rows of ``packed`` from
// ``first`` on, a tensor (blocks, G, bytes) of zeros.
void pack(const at::Tensor& packed, int64_t first, const at::Tensor& quants, const at::Tensor& factors, int64_t form) {
    const Packing packing = Packing::of(form, packed.size(2));
    const int64_t rows = quants.size(0), groups = packed.size(1), count = packing.count();
    TORCH_CHECK(quants.numel() == rows * groups * GROUP && factors.numel() == rows * groups * count,
                "the parts of packed weights do not fit together");
    TORCH_CHECK(first >= 0 && first + rows <= packed.size(0) * BLOCK, "the rows are not all among the packed ones");
    const at::Tensor q = quants.contiguous(), factor = factors.contiguous();
    const uint8_t* from = q.data_ptr<uint8_t>();
    const at::Half* factors_from = factor.data_ptr<at::Half>();
    uint8_t* to = packed.data_ptr<uint8_t>();
    const int64_t blocks_from = first / BLOCK, blocks_to = (first + rows + BLOCK - 1) / BLOCK;
    Pool::get().parallel(blocks_to - blocks_from, 1, [&](int64_t begin, int64_t end) {
        const int64_t last = std::min(first + rows, (blocks_from + end) * BLOCK);
        for (int64_t row = std::max(first, (blocks_from + begin) * BLOCK); row < last; ++row) {
            for (int64_t g = 0; g < groups; ++g) {
                uint8_t* group = to + (row / BLOCK * groups + g) * packing.bytes();
                const int64_t at = (row - first) * groups + g;
                packing.put(group, row % BLOCK, from + at * GROUP);
                auto* of_block = reinterpret_cast<at::Half*>(group + packing.quants());
                for (int64_t n = 0; n < count; ++n) of_block[n * BLOCK + row % BLOCK] = factors_from[at * count + n];
            }
        }
    });
}

// The rows of packed weights (N, K) that the tokens name.
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
                const auto* of_block = reinterpret_cast<const at::Half*>(group + packing.quants());
                packing.take(group, output, quants);
                T* row = to + (n * groups + g) * GROUP;
                for (int64_t k = 0; k < GROUP; ++k) row[k] = static_cast<T>(packing.value(quants[k], k, of_block, output));
            }
        }
    });
}

// The rows of packed weights (N, K) that the tokens (...) name: (..., K) in ``dtype``.
at::Tensor embedding(const at::Tensor& tokens, const at::Tensor& weights, int64_t form, int64_t outputs,
                     at::ScalarType dtype) {
    const Packing packing = Packing::of(form, weights.size(2));
    const at::Tensor ids = tokens.contiguous();
    const int64_t* id = ids.data_ptr<int64_t>();
    TORCH_CHECK(std::all_of(id, id + ids.numel(), [&](int64_t each) { return each >= 0 && each < outputs; }),
                "a token is not in the vocabulary");
    auto shape = tokens.sizes().vec();
    shape.push_back(weights.size(1) * GROUP);
    at::Tensor out = at::empty(shape, at::TensorOptions().dtype(dtype));
    if (dtype == at::kBFloat16)
        rows_of<at::BFloat16>(ids, weights, packing, out);
    else
        rows_of<float>(ids, weights, packing, out);
    return out;
}

}  // namespace
