// The module fastrealign._core: it takes addresses and sizes and computes nothing itself. fastrealign/core/cpu.py
// checks shapes and types.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "constants.h"
#include "cpu/dispatch.h"
#include "cpu/float_state.h"

namespace py = pybind11;
namespace fr = fastrealign;

namespace {

template <typename T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// (address, element type, rows, width, bytes between rows)
using MatrixTuple = std::tuple<uintptr_t, int, int64_t, int64_t, int64_t>;
// (s, address of b, address of c): float64, 0 for none
using MapTuple = std::tuple<double, uintptr_t, uintptr_t>;
// (address of the low limbs, address of the high limbs); 0 for none
using TotalsTuple = std::tuple<uintptr_t, uintptr_t>;

fr::Matrix matrix(const MatrixTuple& t) {
    return {pointer<void>(std::get<0>(t)), static_cast<fr::DType>(std::get<1>(t)), std::get<2>(t), std::get<3>(t),
            std::get<4>(t)};
}
fr::Map map(const MapTuple& t) {
    return {std::get<0>(t), pointer<const double>(std::get<1>(t)), pointer<const double>(std::get<2>(t))};
}
fr::Totals totals(const TotalsTuple& t) {
    return {pointer<uint64_t>(std::get<0>(t)), pointer<int64_t>(std::get<1>(t))};
}

// (good rows, bad rows, index of the first bad row or -1, its state)
py::tuple counts(const fr::Outcome& outcome) {
    return py::make_tuple(outcome.good, outcome.bad.count, outcome.bad.first, static_cast<int>(outcome.bad.state));
}

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "Compiled CPU kernels of fastrealign; called through fastrealign.core.cpu.";
    for (const auto& [name, value] : fr::constants()) m.attr(name) = value;
    m.attr("CACHE_LINE") = fr::cache_line;
    m.def("instruction_sets", &fr::instruction_sets);
    m.attr("DEFAULT_FLOAT_STATE") = fr::default_float_state;
    m.def("set_float_state", &fr::set_float_state, py::arg("state"));
    m.def(
        "reduce",
        [](const MatrixTuple& in, const MapTuple& by, const TotalsTuple& sums, uintptr_t flags, int threads,
           const std::string& isa) {
            fr::Outcome outcome;
            {
                const py::gil_scoped_release release;
                outcome = fr::reduce(matrix(in), map(by), totals(sums), {threads, isa, pointer<uint8_t>(flags)});
            }
            return counts(outcome);
        },
        py::arg("rows"), py::arg("map"), py::arg("totals"), py::arg("flags"), py::arg("threads"), py::arg("isa"));
    m.def(
        "apply",
        [](const MatrixTuple& in, const MatrixTuple& out, const MapTuple& by, const TotalsTuple& sums, uintptr_t flags,
           int threads, const std::string& isa) {
            fr::Outcome outcome;
            {
                const py::gil_scoped_release release;
                outcome =
                    fr::apply(matrix(in), matrix(out), map(by), totals(sums), {threads, isa, pointer<uint8_t>(flags)});
            }
            return counts(outcome);
        },
        py::arg("rows"), py::arg("out"), py::arg("map"), py::arg("totals"), py::arg("flags"), py::arg("threads"),
        py::arg("isa"));
    m.def(
        "vjp",
        [](const MatrixTuple& in, const MatrixTuple& gradient, const MatrixTuple& out, const MapTuple& by, int threads,
           const std::string& isa) {
            fr::Outcome outcome;
            {
                const py::gil_scoped_release release;
                outcome = fr::vjp(matrix(in), matrix(gradient), matrix(out), map(by), {threads, isa, nullptr});
            }
            return counts(outcome);
        },
        py::arg("rows"), py::arg("gradient"), py::arg("out"), py::arg("map"), py::arg("threads"), py::arg("isa"));
}
