// Embedding elements on the device: packs that move in one access of up to 16 bytes, and conversions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "element.h"

#define FR_DEVICE static __device__ __forceinline__

namespace fastrealign {
namespace cuda {

// C adjacent elements in their memory layout.
template <typename T, int C>
struct Pack {
    static constexpr int bytes = C * static_cast<int>(sizeof(T));
    static constexpr int words = (bytes + 3) / 4;
    uint32_t w[words];
};

// Streaming accesses (evict first): every row is read once and written once, and should not displace other data in the
// caches.
template <typename T, int C>
FR_DEVICE Pack<T, C> load_pack(const T* at) {
    using P = Pack<T, C>;
    P pack;
    if constexpr (P::bytes == 16) {
        const uint4 v = __ldcs(reinterpret_cast<const uint4*>(at));
        pack.w[0] = v.x, pack.w[1] = v.y, pack.w[2] = v.z, pack.w[3] = v.w;
    } else if constexpr (P::bytes == 8) {
        const uint2 v = __ldcs(reinterpret_cast<const uint2*>(at));
        pack.w[0] = v.x, pack.w[1] = v.y;
    } else if constexpr (P::bytes == 4) {
        pack.w[0] = __ldcs(reinterpret_cast<const unsigned int*>(at));
    } else {
        static_assert(P::bytes == 2, "a pack is 2, 4, 8 or 16 bytes");
        pack.w[0] = __ldcs(reinterpret_cast<const unsigned short*>(at));
    }
    return pack;
}

template <typename T, int C>
FR_DEVICE void store_pack(T* at, const Pack<T, C>& pack) {
    using P = Pack<T, C>;
    if constexpr (P::bytes == 16) {
        __stcs(reinterpret_cast<uint4*>(at), make_uint4(pack.w[0], pack.w[1], pack.w[2], pack.w[3]));
    } else if constexpr (P::bytes == 8) {
        __stcs(reinterpret_cast<uint2*>(at), make_uint2(pack.w[0], pack.w[1]));
    } else if constexpr (P::bytes == 4) {
        __stcs(reinterpret_cast<unsigned int*>(at), pack.w[0]);
    } else {
        __stcs(reinterpret_cast<unsigned short*>(at), static_cast<unsigned short>(pack.w[0]));
    }
}

// An element of a 16- or 32-bit type that is known only at run time; float32 in registers.
struct Any {
    float value;
};

template <typename T>
FR_DEVICE float to_float32(uint32_t bits);
template <>
__device__ __forceinline__ float to_float32<Any>(uint32_t bits) {
    return __uint_as_float(bits);
}
template <>
__device__ __forceinline__ float to_float32<float>(uint32_t bits) {
    return __uint_as_float(bits);
}
template <>
__device__ __forceinline__ float to_float32<BFloat>(uint32_t bits) {
    return __uint_as_float(bits << 16);
}
template <>
__device__ __forceinline__ float to_float32<Half>(uint32_t bits) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// Element e of a pack; e must be a compile-time constant after unrolling, so that packs stay in registers.
template <typename T, int C>
FR_DEVICE float element(const Pack<T, C>& pack, int e) {
    if constexpr (sizeof(T) == 4) {
        return to_float32<T>(pack.w[e]);
    } else {
        return to_float32<T>(e % 2 == 0 ? pack.w[e / 2] & 0xffffu : pack.w[e / 2] >> 16);
    }
}

// Two values, rounded to nearest even, packed into one 32-bit word.
template <typename T>
FR_DEVICE uint32_t two_elements(float low, float high);
template <>
__device__ __forceinline__ uint32_t two_elements<BFloat>(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16 | __bfloat16_as_ushort(pair.x);
}
template <>
__device__ __forceinline__ uint32_t two_elements<Half>(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return static_cast<uint32_t>(__half_as_ushort(pair.y)) << 16 | __half_as_ushort(pair.x);
}

template <typename T, int C>
FR_DEVICE Pack<T, C> pack_of(const float (&value)[C]) {
    Pack<T, C> pack;
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int e = 0; e < C; ++e) pack.w[e] = __float_as_uint(value[e]);
    } else {
#pragma unroll
        for (int e = 0; e < C; e += 2) pack.w[e / 2] = two_elements<T>(value[e], e + 1 < C ? value[e + 1] : 0.0f);
    }
    return pack;
}

// Output types of a kernel: with(type, write) calls write with an element of the type that rows have at run time. The
// two 16-bit types share a kernel; where speed matters less, one kernel writes all three types.
struct Only32 {
    template <typename Write>
    static __device__ __forceinline__ void with(DType, const Write& write) {
        write(0.0f);
    }
};
struct Only16 {
    template <typename Write>
    static __device__ __forceinline__ void with(DType type, const Write& write) {
        if (type == DType::float16) {
            write(Half{});
        } else {
            write(BFloat{});
        }
    }
};
struct Any32Or16 {
    template <typename Write>
    static __device__ __forceinline__ void with(DType type, const Write& write) {
        if (type == DType::float32) {
            Only32::with(type, write);
        } else {
            Only16::with(type, write);
        }
    }
};

// Element e of a pack times 2^-896 in float64, exact, subnormal or not: the sign stays and the other bits shift right
// by three, into the wider exponent field. Two or three integer instructions; a conversion instruction has quarter
// rate, and a second one an element would be the bottleneck for 16-bit rows. The factor 2^896 is folded into a
// coefficient, where it costs nothing. NaN and Inf become finite numbers, so a coefficient of zero is enough to leave
// out a row.
constexpr double undo_scale = 0x1p896;
template <typename T, int C>
FR_DEVICE double scaled_float64(const Pack<T, C>& pack, int e) {
    if constexpr (sizeof(T) == 4) {
        const int bits = static_cast<int>(pack.w[e]);
        return __hiloint2double((bits >> 3) & static_cast<int>(0x8fffffffu), bits << 29);
    } else {
        // The float32 of a 16-bit element has no bits in its low half; a bfloat16 may have its neighbour there. The
        // permutation is a shift by 16 that a compiler does not keep in registers since the dot products.
        constexpr bool bfloat = std::is_same_v<T, BFloat>;
        const int bits = bfloat ? static_cast<int>(e % 2 == 0 ? __byte_perm(pack.w[e / 2], 0, 0x1044) : pack.w[e / 2])
                                : __float_as_int(element(pack, e));
        return __hiloint2double((bits >> 3) & static_cast<int>(bfloat ? 0x8fffe000u : 0x8fffffffu), 0);
    }
}

// Single elements of a type that is known only at run time, for the kernels that take any type.
FR_DEVICE double load_any(const char* row, DType type, int j) {
    switch (type) {
        case DType::float32:
            return reinterpret_cast<const float*>(row)[j];
        case DType::float64:
            return reinterpret_cast<const double*>(row)[j];
        case DType::float16:
            return to_float32<Half>(reinterpret_cast<const unsigned short*>(row)[j]);
        default:
            return to_float32<BFloat>(reinterpret_cast<const unsigned short*>(row)[j]);
    }
}

// Stores a value and returns the stored value, as rounded to the type.
FR_DEVICE double store_any(char* row, DType type, int j, double value) {
    const float narrow = static_cast<float>(value);
    switch (type) {
        case DType::float32:
            reinterpret_cast<float*>(row)[j] = narrow;
            return narrow;
        case DType::float64:
            reinterpret_cast<double*>(row)[j] = value;
            return value;
        case DType::float16: {
            const uint32_t bits = two_elements<Half>(narrow, 0.0f) & 0xffffu;
            reinterpret_cast<unsigned short*>(row)[j] = static_cast<unsigned short>(bits);
            return to_float32<Half>(bits);
        }
        default: {
            const uint32_t bits = two_elements<BFloat>(narrow, 0.0f) & 0xffffu;
            reinterpret_cast<unsigned short*>(row)[j] = static_cast<unsigned short>(bits);
            return to_float32<BFloat>(bits);
        }
    }
}

}  // namespace cuda
}  // namespace fastrealign
