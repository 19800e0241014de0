// apply: store f(y; s, b, c), and if asked add up what was stored.
//
// Bytes: each row is read once, in packs of 16 bytes a thread, and written once; nothing else grows with the rows. A
// team (a warp up to 1280 columns, a block above) holds R rows in registers, takes the three dot products of each, and
// writes alpha x + beta b + gamma c from the registers. b and c lie in shared memory as float32; each piece of them
// that is read serves R rows.
//
// Arithmetic, as on the CPU: dot products in float64 unless the result is rounded to 16 bits anyway (float32 sums of a
// thousand products miss 3e-7 on rows with few large entries; the float64 unit of a data-centre GPU is idle here: three
// of its 64 operations a clock for each of the 2.2 float32 elements a clock that memory can bring); alpha x + beta b +
// gamma c in float32.
#include "launch.h"
#include "paths.h"
#include "rows.cuh"

namespace fastrealign {
namespace cuda {
namespace {

template <typename In, typename Out, int C, int V, int R, typename Team, bool sums>
__global__ void __launch_bounds__(Team::most_threads,
                                  blocks_of<Team>(R * V * Pack<In, C>::words + (sums ? 2 * C * V : 0), C))
    apply_rows(const RowsParams p, const Target out) {
    using Shared = SharedVector<float, C, V, Team>;
    using Dot = std::conditional_t<std::is_same_v<Out, Only16>, float, double>;
    auto* const exchange = reinterpret_cast<double*>(shared_memory());
    auto* const vectors =
        reinterpret_cast<float*>(exchange + exchange_doubles<Team, C, sums>(static_cast<int>(blockDim.x)));
    Team team(exchange);
    const Shared b(vectors, team), c(vectors + Shared::entries(team.size()), team);
    b.fill(map_b(p), p.d);
    c.fill(map_c(p), p.d);
    __syncthreads();

    const RowMap map = read_map<true>(p);
    const int chunks = p.d / C;
    const int mine = team.lane() % R;
    const bool summing = sums && p.low;
    RowGroup<In, C, V, R, Team> group;
    ColumnSums<C, sums ? V : 1, Team> columns;

    const auto work = [&](int64_t first) {
        group.load(team, p, first);
        const Dots dots = group.template dots<Dot, 3>(team, b, c);
        Coefficients k{};
        RowState state = row_coefficients(map, dots, k);
        const bool present = first + mine < p.rows;
        const unsigned good = __ballot_sync(all_lanes, present && state == RowState::good);
        const unsigned again = __ballot_sync(all_lanes, present && state == RowState::again);
        float alpha[R], beta[R], gamma[R];
#pragma unroll
        for (int i = 0; i < R; ++i) {
            alpha[i] = __shfl_sync(all_lanes, static_cast<float>(k.alpha), i);
            beta[i] = __shfl_sync(all_lanes, static_cast<float>(k.beta), i);
            gamma[i] = __shfl_sync(all_lanes, static_cast<float>(k.gamma), i);
            if constexpr (sums) columns.rows += static_cast<int>(good >> i & 1u);
        }
        __syncwarp();  // b and c are read again: kept in registers since the dot products they would crowd out the rows
#pragma unroll
        for (int v = 0; v < V; ++v) {
            float at_b[Shared::planes][Shared::P], at_c[Shared::planes][Shared::P];
#pragma unroll
            for (int plane = 0; plane < Shared::planes; ++plane) {
                b.load(v, plane, at_b[plane]);
                c.load(v, plane, at_c[plane]);
            }
            const int chunk = team.rank() + v * team.size();
#pragma unroll
            for (int i = 0; i < R; ++i) {
                const bool is_good = good >> i & 1u;
                float value[C];
#pragma unroll
                for (int e = 0; e < C; ++e) {
                    const float shift = fmaf(beta[i], at_b[e / Shared::P][e % Shared::P],
                                             gamma[i] * at_c[e / Shared::P][e % Shared::P]);
                    value[e] = fmaf(alpha[i], element(group.x[i][v], e), shift);
                }
                Out::store(out.data + (first + i) * out.stride, chunk * C, value, is_good && chunk < chunks, out.type);
                if constexpr (sums) {
                    if (summing && is_good) {
#pragma unroll
                        for (int e = 0; e < C; ++e) {
                            const double stored = scaled_float64<std::is_same_v<Out, Only16>>(value[e]);
                            columns.bits[v][e] += bits_of(fma(stored, undo_scale, rounding_offset));
                        }
                    }
                }
            }
        }
        if (again) {
#pragma unroll 1
            for (int i = 0; i < R; ++i) {
                if (!(again >> i & 1u)) continue;
                const char* const from = p.in + (first + i) * p.in_stride;
                char* const to = out.data + (first + i) * out.stride;
                const auto load = [&](int j) { return load_any(from, p.type, j); };
                const RowState found =
                    take_the_long_way(team, map, map_b(p), map_c(p), p.d, load, [&](int j, double value) {
                        const double stored = store_any(to, out.type, j, value);
                        if constexpr (sums) {
                            if (summing) add_to_total(p.low + j, p.high + j, steps_of(stored));
                        }
                    });
                if (found != RowState::good) {
                    // A row without a direction is stored as it came; the caller decides what becomes of it.
                    for (int j = team.rank(); j < p.d; j += team.size()) store_any(to, out.type, j, load(j));
                }
                if (mine == i) state = found;
            }
        }
        record<R>(team, p, first + mine, state);
    };
    over_groups<R>(team, p.rows, work, [&] {
        if constexpr (sums) {
            if (summing) columns.flush(team, p, exchange);
        }
    });
}

struct Call {
    RowsParams params;
    Target out;
    Launch launch;
};

// E columns a thread, R rows at once. False: the row is too wide for it, or the device has too little shared memory.
template <typename In, typename Out, int C, int E, int R, typename Team, bool sums>
bool run(const Call& call) {
    constexpr int V = E / C;
    const int d = call.params.d;
    if (d > E * Team::widest) return false;
    const int threads = threads_of<Team>(d / C, V);
    const size_t shared =
        sizeof(double) * exchange_doubles<Team, C, sums>(threads) +
        2 * sizeof(float) * SharedVector<float, C, V, Team>::entries(threads / teams_of<Team>(threads));
    if (!fits(shared, call.launch.device)) return false;
    launch_rows(apply_rows<In, Out, C, V, R, Team, sums>, threads, shared, (call.params.rows + R - 1) / R,
                teams_of<Team>(threads), call.launch, call.params, call.out);
    return true;
}

// Rows whose types have the same size, as most have.
template <typename In, typename Out>
bool same_size(const Call& call) {
    constexpr int C = 16 / sizeof(In);
    constexpr int R = sizeof(In) == 2 ? 4 : 2;
    if (call.params.low) {
        return run<In, Out, C, 24, R, WarpTeam, true>(call) || run<In, Out, C, 40, R, WarpTeam, true>(call) ||
               run<In, Out, C, 24, R / 2, BlockTeam, true>(call);
    }
    return run<In, Out, C, 16, 4, WarpTeam, false>(call) || run<In, Out, C, 24, R, WarpTeam, false>(call) ||
           run<In, Out, C, 32, R, WarpTeam, false>(call) || run<In, Out, C, 40, 2, WarpTeam, false>(call) ||
           run<In, Out, C, 32, 2, BlockTeam, false>(call);
}

// The wider of the two decides how many elements make 16 bytes.
template <typename In>
bool mixed(const Call& call) {
    return run<In, Any32Or16, 4, 24, 2, WarpTeam, true>(call) || run<In, Any32Or16, 4, 40, 2, WarpTeam, true>(call) ||
           run<In, Any32Or16, 4, 16, 1, BlockTeam, true>(call);
}

bool quick(const Matrix& in, const Matrix& out, const Call& call) {
    if (in.type == DType::float64 || out.type == DType::float64) return false;
    const int64_t in_size = in.type == DType::float32 ? 4 : 2;
    const int64_t out_size = out.type == DType::float32 ? 4 : 2;
    const int64_t chunk = 16 / std::max(in_size, out_size);
    if (in.d % chunk != 0 || !aligned(in, chunk * in_size) || !aligned(out, chunk * out_size)) {
        return run<Any, Any32Or16, 1, single_columns, 1, BlockTeam, true>(call);
    }
    if (in_size != out_size) {
        return in.type == DType::float32   ? mixed<float>(call)
               : in.type == DType::float16 ? mixed<Half>(call)
                                           : mixed<BFloat>(call);
    }
    return in.type == DType::float32   ? same_size<float, Only32>(call)
           : in.type == DType::float16 ? same_size<Half, Only16>(call)
                                       : same_size<BFloat, Only16>(call);
}

}  // namespace

void apply(const Matrix& in, const Matrix& out, const DeviceMap& map, const Results& results, const Launch& launch) {
    if (in.rows == 0) return;
    const OnDevice on(launch.device);
    const Target target{static_cast<char*>(out.data), out.stride, out.type};
    const bool narrow = out.type == DType::float16 || out.type == DType::bfloat16;
    const Limits& limits = narrow ? float32_throughout : float32_entries;
    const Call call{rows_params(in, map, results, launch, limits), target, launch};
    if (!quick(in, out, call)) any_rows(in, &out, map, results, launch);
}

}  // namespace cuda
}  // namespace fastrealign
