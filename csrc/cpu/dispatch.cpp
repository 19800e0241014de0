// Chooses the instruction set at run time, splits the rows into blocks and distributes them over threads. Compiled
// without SIMD flags: this code runs on every machine.
//
// Threads live for one call. Starting one costs about 15 us, against the milliseconds of a call that is worth
// parallelising, and a process that forks later (a DataLoader worker) does not inherit a broken thread pool.
#include "dispatch.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>

#include "buffer.h"
#include "float_state.h"

namespace fastrealign {
namespace {

// The smallest block of rows that a thread takes: large enough that taking it costs nothing.
constexpr int64_t block_bytes = 256 * 1024;

struct Kernels {
    const char* name;
    const ReduceKernel* reduce;
    const ApplyKernel (*apply)[dtype_count];
    const VjpKernel* vjp;
};

// What this machine can run, best first.
const std::vector<Kernels>& supported() {
    static const std::vector<Kernels> list = [] {
        std::vector<Kernels> found;
#if defined(FR_X86)
        __builtin_cpu_init();
        const bool has_avx2 =
            __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
        if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
            found.push_back({"avx512", avx512::reduce_kernels, avx512::apply_kernels, avx512::vjp_kernels});
            found.push_back({"avx512vl", avx512vl::reduce_kernels, avx512::apply_kernels, avx512::vjp_kernels});
            // Zen 4 converts float32 to float64 faster in 256-bit vectors.
            if (__builtin_cpu_is("amdfam19h")) std::swap(found[0], found[1]);
        }
        if (has_avx2) found.push_back({"avx2", avx2::reduce_kernels, avx2::apply_kernels, avx2::vjp_kernels});
#endif
        found.push_back({"baseline", baseline::reduce_kernels, baseline::apply_kernels, baseline::vjp_kernels});
        return found;
    }();
    return list;
}

const Kernels& choose(const std::string& wanted) {
    if (wanted.empty()) return supported().front();
    std::string message = "instruction set '" + wanted + "' cannot run on this machine; it has";
    for (const Kernels& kernels : supported()) {
        if (wanted == kernels.name) return kernels;
        message += std::string(" ") + kernels.name;
    }
    throw std::invalid_argument(message);
}

// When `apply` recomputes a row.
const Limits& limits(DType in, DType out) {
    if (in == DType::float64 || out == DType::float64) return float64_throughout;
    if (out == DType::float32) return float32_entries;
    return in == DType::float32 ? rounded_entries : float32_throughout;
}

// Output larger than this is written with non-temporal stores. One core's share of the last-level cache is rarely
// more. The system may report far more (in a virtual machine, the cache of the whole host), so its answer can only
// lower the bound.
int64_t cache_bytes() {
    static const int64_t size = [] {
        constexpr int64_t most = int64_t{16} << 20;
        int64_t bytes = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
        bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
        return bytes > 0 ? std::min(bytes, most) : most;
    }();
    return size;
}

// The sums of one thread, added to the caller's totals at the end.
class ThreadSums {
 public:
    ThreadSums(bool wanted, bool integers, int64_t d)
        : accumulators_(wanted ? padded(d) : 0),
          integers_(wanted && integers ? padded(d) : 0),
          totals_(wanted ? d : 0) {
        if (!wanted) return;
        std::fill_n(accumulators_.data(), padded(d), rounding_offset);
        sums = {accumulators_.data(), integers_.data(), totals_.data()};
    }
    // The caller holds the lock on `to`. `map`: the one that beta and gamma belong to.
    void add_to(const Totals& to, const PreparedMap& map) {
        if (!sums.accumulators) return;
        flush(sums, map.d());
        for (int64_t j = 0; j < map.d(); ++j) {
            add_to_limbs(totals_.data()[j] + map.shift(j, sums.beta, sums.gamma), to.low[j], to.high[j]);
        }
    }
    Sums sums{};

 private:
    Buffer<double> accumulators_;
    Buffer<int32_t> integers_;
    Buffer<Total> totals_;
};

// Blocks of rows for threads that come and take them. Each is a part of what is left: long blocks, so that what a
// kernel prefetches is its own, then ever shorter ones, so that the threads finish together.
class Blocks {
 public:
    Blocks(int64_t rows, int64_t shortest, int threads) : rows_(rows), shortest_(shortest), threads_(threads) {}
    // The first row and the number of rows, which is 0 at the end.
    std::pair<int64_t, int64_t> take() {
        int64_t first = next_, count;
        do {
            const int64_t left = rows_ - first;
            count = std::min(left, std::max(shortest_, left / (2 * threads_) / batch_rows * batch_rows));
        } while (!next_.compare_exchange_weak(first, first + count));
        return {first, count};
    }

 private:
    std::atomic<int64_t> next_{0};
    int64_t rows_, shortest_;
    int threads_;
};

struct Workspace {
    double* scratch;
    float* unpacked;
};

// Calls work(block of rows, sums, workspace), which returns the bad rows, for all blocks and merges their outcomes.
// `integers`: whether the sums may be of 16-bit results.
template <typename Work>
Outcome over_blocks(const Matrix& in, const PreparedMap& map, Totals totals, bool integers, int threads,
                    const Work& work) {
    const int64_t row_bytes = std::max<int64_t>(1, in.d * size_of(in.type));
    const int64_t shortest = std::max<int64_t>(batch_rows, block_bytes / row_bytes / batch_rows * batch_rows);
    const int64_t blocks = (in.rows + shortest - 1) / shortest;
    const int64_t useful = std::max<int64_t>(1, in.rows * row_bytes / bytes_worth_a_thread);
    const int n = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, blocks, useful})));

    Blocks all(in.rows, shortest, n);
    std::mutex lock;
    Outcome outcome;
    const auto run = [&] {
        const DefaultFloatState state;
        ThreadSums sums(totals.low != nullptr, integers, in.d);
        Buffer<double> scratch(in.d);
        Buffer<float> unpacked(batch_rows * padded(in.d));
        Outcome mine;
        for (auto [first, count] = all.take(); count > 0; std::tie(first, count) = all.take()) {
            const Rows rows{static_cast<const char*>(in.data) + first * in.stride, in.stride, count, first, in.d};
            const BadRows bad = work(rows, sums.sums, Workspace{scratch.data(), unpacked.data()});
            mine.good += count - bad.count;
            mine.bad.merge(bad);
        }
        const std::lock_guard<std::mutex> guard(lock);
        sums.add_to(totals, map);
        outcome.good += mine.good;
        outcome.bad.merge(mine.bad);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < n; ++i) {
        try {
            others.emplace_back(run);
        } catch (const std::system_error&) {
            break;  // the system has no more threads: the ones started so far do the work
        }
    }
    run();
    for (std::thread& other : others) other.join();
    return outcome;
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels& kernels : supported()) names.emplace_back(kernels.name);
    return names;
}

Outcome reduce(const Matrix& in, const PreparedMap& prepared, Totals totals, const Options& options) {
    const DefaultFloatState state;
    const ReduceKernel kernel = choose(options.isa).reduce[static_cast<int>(in.type)];
    const RowMap map = prepared.with(float64_throughout);
    return over_blocks(in, prepared, totals, false, options.threads,
                       [&](const Rows& rows, Sums& sums, const Workspace& space) {
                           ReduceBlock block{rows,
                                             &map,
                                             prepared.vectors(),
                                             prepared.b_scale(),
                                             prepared.c_scale(),
                                             options.flags,
                                             space.scratch,
                                             space.unpacked,
                                             sums,
                                             {}};
                           kernel(block);
                           return block.bad;
                       });
}

Outcome apply(const Matrix& in, const Matrix& out, const PreparedMap& prepared, Totals totals, const Options& options) {
    const DefaultFloatState state;
    const ApplyKernel kernel = choose(options.isa).apply[static_cast<int>(in.type)][static_cast<int>(out.type)];
    const RowMap map = prepared.with(limits(in.type, out.type));
    const bool non_temporal = out.rows * out.d * size_of(out.type) > cache_bytes();
    return over_blocks(in, prepared, totals, size_of(out.type) == 2, options.threads,
                       [&](const Rows& rows, Sums& sums, const Workspace& space) {
                           char* to = static_cast<char*>(out.data) + rows.first * out.stride;
                           ApplyBlock block{
                               rows,          to,   out.stride, non_temporal, &map, prepared.vectors(), options.flags,
                               space.scratch, sums, {}};
                           kernel(block);
                           return block.bad;
                       });
}

Outcome vjp(const Matrix& in, const Matrix& gradient, const Matrix& out, const PreparedMap& prepared,
            const Options& options) {
    const DefaultFloatState state;
    const VjpKernel kernel = choose(options.isa).vjp[static_cast<int>(in.type)];
    const RowMap map = prepared.with(float64_throughout);
    return over_blocks(in, prepared, {nullptr, nullptr}, false, options.threads,
                       [&](const Rows& rows, Sums&, const Workspace& space) {
                           VjpBlock block{rows,
                                          static_cast<const char*>(gradient.data) + rows.first * gradient.stride,
                                          gradient.stride,
                                          static_cast<char*>(out.data) + rows.first * out.stride,
                                          out.stride,
                                          &map,
                                          prepared.vectors(),
                                          space.scratch,
                                          {}};
                           kernel(block);
                           return block.bad;
                       });
}

}  // namespace fastrealign
