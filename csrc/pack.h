// Memory for packed data, and flags in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "layout.h"

namespace bitwright {

// Zeroed memory on a cache line, with kSlack readable bytes after its end.
class Bytes {
  public:
    Bytes() = default;
    explicit Bytes(int64_t size, uint8_t fill = 0);
    std::byte* data() { return memory_.get(); }
    const std::byte* data() const { return memory_.get(); }
    int64_t size() const { return size_; }

  private:
    struct Free {
        void operator()(std::byte* memory) const;
    };
    std::unique_ptr<std::byte, Free> memory_;
    int64_t size_ = 0;
};

// One bit per channel, padded with zeros to whole words.
std::vector<uint64_t> pack_flags(const uint8_t* flags, int64_t channels);

}  // namespace bitwright
