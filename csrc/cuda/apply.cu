// apply: store f(y; s, b, c) and, on request, sum the stored rows.
//
// Bytes: each row is read once, in packs of 16 bytes per thread, and written once; no other traffic grows with the
// rows. A thread group (a warp up to 1280 columns, a block above) holds a tile of R rows in registers, computes the
// three dot products of each, and writes alpha x + beta b + gamma c from registers. b and c are in shared memory as
// float32; each load of them serves R rows.
//
// Arithmetic, as on the CPU: dot products in float64, unless the result is rounded to 16 bits. (The error of float32
// sums of a thousand products exceeds 3e-7 on rows with few large entries. On a data-centre GPU the float64 units are
// mostly idle here: memory delivers 2.2 float32 elements per clock and multiprocessor, and each takes three of the 64
// float64 operations per clock.) Entries alpha x + beta b + gamma c in float32.
#include "column_sums.cuh"
#include "launch.h"
#include "variants.h"

namespace fastrealign {
namespace cuda {
namespace {

template <int C, int V, int R, typename Group, bool with_sums>
using SumsOf = std::conditional_t<with_sums, ColumnSums<C, V, R, Group, false>, NoSums>;

template <typename In, typename Out, int C, int V, int R, typename Group, bool with_sums>
__global__ void __launch_bounds__(Group::max_block_threads,
                                  blocks_of<Group>(R * V * Pack<In, C>::words + (with_sums ? 2 * C * V + C : 0), C))
    apply_rows(const RowsParams p, const Target out) {
    using Shared = SharedVector<float, C, V, Group>;
    using Sums = SumsOf<C, V, R, Group, with_sums>;
    using Dot = std::conditional_t<std::is_same_v<Out, Only16>, float, double>;
    auto* const exchange = reinterpret_cast<double*>(shared_memory());
    auto* const of_sums = exchange + exchange_doubles<Group>(static_cast<int>(blockDim.x));
    auto* const vectors = reinterpret_cast<float*>(of_sums + Sums::doubles(static_cast<int>(blockDim.x)));
    Group group(exchange + map_doubles);
    const RowMap& map = share_map(p, exchange);
    const Shared b(vectors, group), c(vectors + Shared::entries(group.size()), group);
    b.fill(map_b(p), p.d);
    c.fill(map_c(p), p.d);
    const int chunks = p.d / C;
    const int mine = group.lane() % R;
    const bool summing = with_sums && p.low;
    RowTile<In, C, V, R, Group> tile;
    Sums sums(of_sums, group, p);
    __syncthreads();

    const auto work = [&](int64_t first) {
        tile.load(group, p, first);
        const Dots dots = tile.template dots<Dot, 3>(group, b, c);
        Coefficients k{};
        RowState state = row_coefficients(map, dots, k);
        const bool present = first + mine < p.rows;
        const unsigned good = __ballot_sync(all_lanes, present && state == RowState::good);
        const unsigned recompute = __ballot_sync(all_lanes, present && state == RowState::recompute);
        float alpha[R], beta[R], gamma[R];
        double counted[R];  // the factor of stored values in the sums
#pragma unroll
        for (int i = 0; i < R; ++i) {
            alpha[i] = __shfl_sync(all_lanes, static_cast<float>(k.alpha), i);
            beta[i] = __shfl_sync(all_lanes, static_cast<float>(k.beta), i);
            gamma[i] = __shfl_sync(all_lanes, static_cast<float>(k.gamma), i);
            counted[i] = good >> i & 1u ? stored_scale * undo_scale : 0.0;
        }
        sums.make_room(summing && (good >> mine & 1u) ? stored_weight : 0.0);
        __syncwarp();  // forces a reload of b and c: kept in registers since the dot products, they would spill the
                       // rows
        Out::with(out.type, [&](auto of_type) {
            using T = decltype(of_type);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                float at_b[Shared::planes][Shared::P], at_c[Shared::planes][Shared::P];
#pragma unroll
                for (int plane = 0; plane < Shared::planes; ++plane) {
                    b.load(v, plane, at_b[plane]);
                    c.load(v, plane, at_c[plane]);
                }
                const int chunk = group.rank() + v * group.size();
#pragma unroll
                for (int i = 0; i < R; ++i) {
                    float value[C];
#pragma unroll
                    for (int e = 0; e < C; ++e) {
                        const float shift = fmaf(beta[i], at_b[e / Shared::P][e % Shared::P],
                                                 gamma[i] * at_c[e / Shared::P][e % Shared::P]);
                        value[e] = fmaf(alpha[i], element(tile.x[i][v], e), shift);
                    }
                    const Pack<T, C> stored = pack_of<T>(value);
                    if ((good >> i & 1u) && chunk < chunks) {
                        store_pack(reinterpret_cast<T*>(out.data + (first + i) * out.stride) + chunk * C, stored);
                    }
                    if constexpr (with_sums) {
#pragma unroll
                        for (int e = 0; e < C; ++e) sums.add(v, e, counted[i], scaled_float64(stored, e));
                    }
                }
            }
        });
        if (recompute) {
#pragma unroll 1
            for (int i = 0; i < R; ++i) {
                if (!(recompute >> i & 1u)) continue;
                const char* const from = p.in + (first + i) * p.in_stride;
                char* const to = out.data + (first + i) * out.stride;
                const auto load = [&](int j) { return load_any(from, p.type, j); };
                const RowState found =
                    map_row_slow_path(group, map, map_b(p), map_c(p), p.d, load, [&](int j, double value) {
                        const double stored = store_any(to, out.type, j, value);
                        if (summing) add_to_total(p.low + j, p.high + j, value_steps(stored));
                    });
                if (found != RowState::good) {
                    // A row without a direction is stored unchanged; the caller decides what to do with it.
                    for (int j = group.rank(); j < p.d; j += group.size()) store_any(to, out.type, j, load(j));
                }
                if (mine == i) state = found;
            }
        }
        record<R>(group, p, first + mine, state);
    };
    over_tiles<R>(group, p.rows, work, [&] {
        if (summing) sums.flush();
    });
}

struct Call {
    RowsParams params;
    Target out;
    Launch launch;
};

// E columns per thread, R rows per tile. Returns false where the row is too wide, or shared memory too small.
template <typename In, typename Out, int C, int E, int R, typename Group, bool with_sums>
bool run(const Call& call) {
    constexpr int V = E / C;
    const int d = call.params.d;
    if (d > E * Group::max_size) return false;
    const int threads = threads_of<Group>(d / C, V);
    const size_t shared =
        sizeof(double) * (exchange_doubles<Group>(threads) + SumsOf<C, V, R, Group, with_sums>::doubles(threads)) +
        2 * sizeof(float) * SharedVector<float, C, V, Group>::entries(threads / groups_of<Group>(threads));
    if (!fits(shared, call.launch.device)) return false;
    launch_rows(apply_rows<In, Out, C, V, R, Group, with_sums>, threads, shared, (call.params.rows + R - 1) / R,
                groups_of<Group>(threads), call.launch, call.params, call.out);
    return true;
}

// Input and output types of the same size, the common case.
template <typename In, typename Out>
bool same_size(const Call& call) {
    constexpr int C = 16 / sizeof(In);
    constexpr int R = sizeof(In) == 2 ? 4 : 2;
    if (call.params.low) {
        return run<In, Out, C, warp_columns(512), R, Warp, true>(call) ||
               run<In, Out, C, warp_columns(768), 2, Warp, true>(call) ||
               run<In, Out, C, warp_columns(1024), 2, Warp, true>(call) ||
               run<In, Out, C, warp_columns(1280), 2, Warp, true>(call) ||
               run<In, Out, C, sizeof(In) == 2 ? 16 : 20, 1, Block, true>(call);
    }
    return run<In, Out, C, warp_columns(512), 4, Warp, false>(call) ||
           run<In, Out, C, warp_columns(768), R, Warp, false>(call) ||
           run<In, Out, C, warp_columns(1024), 2, Warp, false>(call) ||
           run<In, Out, C, warp_columns(1280), 2, Warp, false>(call) || run<In, Out, C, 32, 1, Block, false>(call);
}

// Input and output types of different sizes; the wider one decides how many elements make 16 bytes.
template <typename In>
bool mixed(const Call& call) {
    return run<In, Any32Or16, 4, warp_columns(768), 2, Warp, true>(call) ||
           run<In, Any32Or16, 4, warp_columns(1280), 2, Warp, true>(call) ||
           run<In, Any32Or16, 4, 16, 1, Block, true>(call);
}

bool fast_path(const Matrix& in, const Matrix& out, const Call& call) {
    if (in.type == DType::float64 || out.type == DType::float64) return false;
    const int64_t in_size = size_of(in.type);
    const int64_t out_size = size_of(out.type);
    const int64_t chunk = 16 / std::max(in_size, out_size);
    if (in.d % chunk != 0 || !aligned(in, chunk * in_size) || !aligned(out, chunk * out_size)) {
        return run<Any, Any32Or16, 1, single_columns, 1, Block, true>(call);
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
    if (!fast_path(in, out, call)) any_rows(in, &out, map, results, launch);
}

}  // namespace cuda
}  // namespace fastrealign
