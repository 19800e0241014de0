// Runs the compiled kernels on cases from stdin and writes what they store and sum to stdout, for a machine whose
// Python is not there (tests/unit/core/test_other_machines.py makes the cases and reads the results).
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/dispatch.h"

namespace fr = fastrealign;

static void read(void* to, size_t bytes) {
    if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(1);
}
static void write(const void* from, size_t bytes) {
    if (std::fwrite(from, 1, bytes, stdout) != bytes) std::exit(1);
}
static std::vector<char> read_bytes(size_t bytes) {
    std::vector<char> all(bytes);
    read(all.data(), bytes);
    return all;
}
static void write_sums(const std::vector<uint64_t>& low, const std::vector<int64_t>& high) {
    write(low.data(), low.size() * sizeof(uint64_t));
    write(high.data(), high.size() * sizeof(int64_t));
}

int main() {
    struct {
        int64_t type, out_type, size, out_size, rows, d, has_b, has_c;
        double s;
    } head;
    while (std::fread(&head, sizeof head, 1, stdin) == 1) {
        const size_t d = static_cast<size_t>(head.d), count = static_cast<size_t>(head.rows) * d;
        std::vector<double> b(d), c(d);
        read(b.data(), d * sizeof(double));
        read(c.data(), d * sizeof(double));
        std::vector<char> rows = read_bytes(count * static_cast<size_t>(head.size));
        std::vector<char> gradient = read_bytes(rows.size());
        std::vector<char> out(count * static_cast<size_t>(head.out_size)), back(rows.size());
        std::vector<uint8_t> flags(static_cast<size_t>(head.rows));
        const fr::PreparedMap map({head.s, head.has_b ? b.data() : nullptr, head.has_c ? c.data() : nullptr}, head.d);
        const auto type = static_cast<fr::DType>(head.type), out_type = static_cast<fr::DType>(head.out_type);
        const fr::Matrix in{rows.data(), type, head.rows, head.d, head.d * head.size};
        const fr::Matrix to{out.data(), out_type, head.rows, head.d, head.d * head.out_size};
        const fr::Options options{2, "", flags.data()};
        {
            std::vector<uint64_t> low(d);
            std::vector<int64_t> high(d);
            fr::apply(in, to, map, {low.data(), high.data()}, options);
            write(out.data(), out.size());
            write(flags.data(), flags.size());
            write_sums(low, high);
        }
        {
            std::vector<uint64_t> low(d);
            std::vector<int64_t> high(d);
            fr::reduce(in, map, {low.data(), high.data()}, options);
            write_sums(low, high);
        }
        const fr::Matrix g{gradient.data(), type, head.rows, head.d, in.stride};
        fr::vjp(in, g, {back.data(), type, head.rows, head.d, in.stride}, map, {2, "", nullptr});
        write(back.data(), back.size());
    }
    return 0;
}
