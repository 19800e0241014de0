// Memory of the kernels: whole cache lines and whole vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>

#include "kernels.h"

namespace fastrealign {

// Memory aligned to cache lines, zeroed.
template <typename T>
class Buffer {
 public:
    explicit Buffer(int64_t size)
        : size_(std::max<int64_t>(size, 1)),
          data_(static_cast<T*>(::operator new(static_cast<size_t>(size_) * sizeof(T), std::align_val_t{cache_line}))) {
        std::fill_n(data_, size_, T{});
    }
    ~Buffer() { ::operator delete(data_, std::align_val_t{cache_line}); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* data() { return data_; }
    const T* data() const { return data_; }

 private:
    int64_t size_;
    T* data_;
};

// Room for d values, and for a longest vector that begins at any of them.
inline int64_t padded(int64_t d) { return (d + 2 * sixteen - 1) / sixteen * sixteen; }

}  // namespace fastrealign
