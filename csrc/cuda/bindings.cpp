// The module fastrealign._cuda, separate from _core so that the core loads where CUDA does not. It takes device
// addresses, sizes and a stream, and enqueues kernels on that stream; no call synchronizes.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>
#include <vector>

#include "api.h"
#include "constants.h"

namespace py = pybind11;
namespace fr = fastrealign;
namespace gpu = fastrealign::cuda;

namespace {

// (address, element type, rows, width, bytes between rows)
using MatrixTuple = std::tuple<uintptr_t, int, int64_t, int64_t, int64_t>;
// (address of the map, terms)
using MapTuple = std::tuple<uintptr_t, int>;
// (addresses of the low limbs, high limbs, bad rows, flags); 0 for none
using ResultsTuple = std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t>;
// (device, stream, number of the first row, blocks in the grid or 0)
using LaunchTuple = std::tuple<int, uintptr_t, int64_t, int>;

template <typename T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

gpu::Matrix matrix(const MatrixTuple& t) {
    const auto [address, type, rows, d, stride] = t;
    if (type < 0 || type >= fr::dtype_count)
        throw std::invalid_argument("element type: expected 0 (float32) to 3 (float64)");
    if (rows < 0 || d < 1 || d > gpu::max_columns)
        throw std::invalid_argument("rows: expected 0 or more, of 1 to 2^27 - 1 columns");
    const auto dtype = static_cast<fr::DType>(type);
    const int64_t size = fr::size_of(dtype);
    if (rows > 0 && (address % static_cast<uintptr_t>(size) != 0 || (rows > 1 && stride % size != 0))) {
        throw std::invalid_argument("rows must be aligned to their element size, as a GPU requires; pass a copy");
    }
    return {pointer<void>(address), dtype, rows, d, stride};
}
gpu::DeviceMap map(const MapTuple& t) {
    const auto [address, terms] = t;
    if (terms < 0 || terms > static_cast<int>(fr::Terms::bc))
        throw std::invalid_argument("terms: expected 0 (none), 1 (s, b) or 2 (s, b, c)");
    return {pointer<double>(address), terms};
}
gpu::Results results(const ResultsTuple& t) {
    return {pointer<uint64_t>(std::get<0>(t)), pointer<uint64_t>(std::get<1>(t)), pointer<uint64_t>(std::get<2>(t)),
            pointer<uint8_t>(std::get<3>(t))};
}
gpu::Launch launch(const LaunchTuple& t) { return {std::get<0>(t), std::get<1>(t), std::get<2>(t), std::get<3>(t)}; }

void same_shape(const gpu::Matrix& a, const gpu::Matrix& b) {
    if (a.rows != b.rows || a.d != b.d) throw std::invalid_argument("the matrices differ in shape");
}

void reduce(const MatrixTuple& rows, const MapTuple& by, const ResultsTuple& into, const LaunchTuple& how) {
    if (std::get<0>(into) == 0 || std::get<1>(into) == 0)
        throw std::invalid_argument("reduce: expected sums to add to");
    gpu::reduce(matrix(rows), map(by), results(into), launch(how));
}

void apply(const MatrixTuple& rows, const MatrixTuple& out, const MapTuple& by, const ResultsTuple& into,
           const LaunchTuple& how) {
    const gpu::Matrix from = matrix(rows), to = matrix(out);
    same_shape(from, to);
    gpu::apply(from, to, map(by), results(into), launch(how));
}

void vjp(const MatrixTuple& rows, const MatrixTuple& gradient, const MatrixTuple& out, const MapTuple& by,
         const LaunchTuple& how) {
    const gpu::Matrix y = matrix(rows), g = matrix(gradient), to = matrix(out);
    same_shape(y, g);
    same_shape(y, to);
    gpu::vjp(y, g, to, map(by), launch(how));
}

void prepare(const MapTuple& by, int64_t width, const LaunchTuple& how) { gpu::prepare(map(by), width, launch(how)); }

}  // namespace

PYBIND11_MODULE(fastrealign_cuda, m) {
    m.doc() = "Compiled CUDA kernels of fastrealign; csrc/cuda/api.h describes the arguments.";
    m.attr("CONSTANTS") = fr::constants();
    const py::call_guard<py::gil_scoped_release> unlocked;
    m.def("device_count", &gpu::device_count);
    m.def("can_run", &gpu::can_run, py::arg("device"));
    m.attr("built_for") = std::vector<int>{FR_CUDA_ARCHITECTURES};
    m.def("prepare", &prepare, py::arg("map"), py::arg("width"), py::arg("launch"), unlocked);
    m.def("reduce", &reduce, py::arg("rows"), py::arg("map"), py::arg("results"), py::arg("launch"), unlocked);
    m.def("apply", &apply, py::arg("rows"), py::arg("out"), py::arg("map"), py::arg("results"), py::arg("launch"),
          unlocked);
    m.def("vjp", &vjp, py::arg("rows"), py::arg("gradient"), py::arg("out"), py::arg("map"), py::arg("launch"),
          unlocked);
}
