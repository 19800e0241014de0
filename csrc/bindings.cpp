// The module fastrealign._core: it takes NumPy arrays and computes nothing itself. fastrealign/core/cpu.py checks
// shapes and types.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <memory>
#include <optional>

#include "constants.h"
#include "cpu/dispatch.h"
#include "cpu/float_state.h"

namespace py = pybind11;
namespace fr = fastrealign;

namespace {

// About 5 us of a core.
constexpr int64_t entries_worth_a_release = 16 * 1024;

fr::Matrix matrix(const py::array& rows, void* data, int type) {
    return {data, static_cast<fr::DType>(type), rows.shape(0), rows.shape(1), rows.strides(0)};
}
// The kernels do not write to rows.
fr::Matrix rows_of(const py::array& rows, int type) { return matrix(rows, const_cast<void*>(rows.data()), type); }
fr::Matrix output_of(py::array& out, int type) { return matrix(out, out.mutable_data(), type); }

// The memory of an array, or null for None.
template <typename T>
T* written(const py::object& array) {
    return array.is_none() ? nullptr : static_cast<T*>(py::reinterpret_borrow<py::array>(array).mutable_data());
}
const double* read(const py::object& array) {
    return array.is_none() ? nullptr : static_cast<const double*>(py::reinterpret_borrow<py::array>(array).data());
}
// Asks the system for large pages in memory that nothing was written to yet. Only advice: a failure changes no result.
void advise_large_pages([[maybe_unused]] uintptr_t address, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t from = (address + page - 1) / page * page, to = (address + bytes) / page * page;
    if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#endif
}

fr::Totals totals(const py::object& low, const py::object& high) {
    return {written<uint64_t>(low), written<int64_t>(high)};
}

// Runs a kernel and returns (good rows, bad rows, index of the first bad row or -1, its state). Other Python threads
// run meanwhile, but where the work is shorter than it takes to get the interpreter back from them.
template <typename Work>
py::tuple counts(const fr::Matrix& in, const Work& work) {
    fr::Outcome outcome;
    {
        std::optional<py::gil_scoped_release> release;
        if (in.rows * in.d >= entries_worth_a_release) release.emplace();
        outcome = work();
    }
    return py::make_tuple(outcome.good, outcome.bad.count, outcome.bad.first, static_cast<int>(outcome.bad.state));
}

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "Compiled CPU kernels of fastrealign; called through fastrealign.core.cpu.";
    for (const auto& [name, value] : fr::constants()) m.attr(name) = value;
    m.attr("CACHE_LINE") = fr::cache_line;
    m.attr("BYTES_WORTH_A_THREAD") = fr::bytes_worth_a_thread;
    m.def("instruction_sets", &fr::instruction_sets);
    m.attr("DEFAULT_FLOAT_STATE") = fr::default_float_state;
    m.def("set_float_state", &fr::set_float_state, py::arg("state"));
    // A variable of the environment as it is now, or "". os.environ, which keeps it up to date, takes five times as
    // long.
    m.def(
        "environment",
        [](const char* name) {
            const char* value = std::getenv(name);
            return py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefault(value ? value : ""));
        },
        py::arg("name"));
    m.def("advise_large_pages", &advise_large_pages, py::arg("address"), py::arg("bytes"));
    py::class_<fr::PreparedMap>(m, "PreparedMap", "A row map (s, b, c) as the kernels read it; b and c may be None.")
        .def(py::init([](double s, const py::object& b, const py::object& c, int64_t d) {
                 return std::make_unique<fr::PreparedMap>(fr::Map{s, read(b), read(c)}, d);
             }),
             py::arg("s"), py::arg("b"), py::arg("c"), py::arg("d"))
        .def_property_readonly("d", &fr::PreparedMap::d);
    m.def(
        "reduce",
        [](const py::array& rows, int type, const fr::PreparedMap& map, const py::object& low, const py::object& high,
           const py::object& flags, int threads, const std::string& isa) {
            const fr::Matrix in = rows_of(rows, type);
            const fr::Totals sums = totals(low, high);
            const fr::Options options{threads, isa, written<uint8_t>(flags)};
            return counts(in, [&] { return fr::reduce(in, map, sums, options); });
        },
        py::arg("rows"), py::arg("type"), py::arg("map"), py::arg("low"), py::arg("high"), py::arg("flags"),
        py::arg("threads"), py::arg("isa"));
    m.def(
        "apply",
        [](const py::array& rows, int type, py::array& out, int out_type, const fr::PreparedMap& map,
           const py::object& low, const py::object& high, const py::object& flags, int threads,
           const std::string& isa) {
            const fr::Matrix in = rows_of(rows, type), to = output_of(out, out_type);
            const fr::Totals sums = totals(low, high);
            const fr::Options options{threads, isa, written<uint8_t>(flags)};
            return counts(in, [&] { return fr::apply(in, to, map, sums, options); });
        },
        py::arg("rows"), py::arg("type"), py::arg("out"), py::arg("out_type"), py::arg("map"), py::arg("low"),
        py::arg("high"), py::arg("flags"), py::arg("threads"), py::arg("isa"));
    m.def(
        "vjp",
        [](const py::array& rows, const py::array& gradient, py::array& out, int type, const fr::PreparedMap& map,
           int threads, const std::string& isa) {
            const fr::Matrix in = rows_of(rows, type), g = rows_of(gradient, type), to = output_of(out, type);
            return counts(in, [&] { return fr::vjp(in, g, to, map, {threads, isa, nullptr}); });
        },
        py::arg("rows"), py::arg("gradient"), py::arg("out"), py::arg("type"), py::arg("map"), py::arg("threads"),
        py::arg("isa"));
}
