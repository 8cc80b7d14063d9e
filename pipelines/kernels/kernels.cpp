// What models spend their time in, for CPUs: products with weights of 4 to 8 bits, attention over the slots, and the whole
// of a small encoder.
//
// Weights are kept in groups of 32 along the inputs as w = scale * q + minimum, q unsigned. Where the processor has
// matrix tiles (AMX) they are unpacked to bfloat16 on the way in; else activations are quantised to 8 bits in the same
// groups, so that products are integer ones (AVX-512 VNNI). Either way each row is computed alone and in the same order
// whatever shares its batch (with tiles, a row that is alone sums in another order), so that a reply does not depend on its
// neighbours.

#include "attention.h"
#include "common.h"
#include "decoder.h"
#include "encoder.h"
#include "packing.h"
#include "products.h"
#include "program.h"
#include "rows.h"

namespace {

void use_threads(int64_t threads) { Pool::get().use(threads); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(loquent, library) {
    library.class_<Program>("Program")
        .def(torch::init<int64_t>())
        .def("number", &Program::number)
        .def("real", &Program::real)
        .def("truth", &Program::truth)
        .def("text", &Program::text)
        .def("nothing", &Program::nothing)
        .def("device", &Program::device)
        .def("tensor", &Program::tensor)
        .def("from_register", &Program::from)
        .def("list", &Program::list)
        .def("call", &Program::call)
        .def("item", &Program::item)
        .def("forget", &Program::forget)
        .def("returns", &Program::returns)
        .def("run", &Program::run);
    library.class_<Encoder>("Encoder")
        .def(torch::init<std::vector<at::Tensor>, int64_t, double>())
        .def("run", &Encoder::run);
}

TORCH_LIBRARY_IMPL(loquent, CompositeExplicitAutograd, library) {
    library.impl("forms", forms);
    library.impl("use_threads", use_threads);
}

TORCH_LIBRARY_IMPL(loquent, CPU, library) {
    library.impl("add", add);
    library.impl("dense", dense);
    library.impl("embedding", embedding);
    library.impl("linear", linear);
    library.impl("pack", pack);
    library.impl("attention", attention);
    library.impl("biased_attention", biased_attention);
    library.impl("cross_attention", cross_attention);
    library.impl("encoder_attention", encoder_attention);
    library.impl("rms_norm", rms_norm);
    library.impl("rotate", rotate);
    library.impl("gate", gate);
    library.impl("heads", heads);
    library.impl("argmax", argmax);
    library.impl("rule_out", rule_out);
}
