// Memory for packed data, and flags in it.
#include "pack.h"

#include <cstring>

namespace bitwright {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

Bytes::Bytes(int64_t size, uint8_t fill)
    : memory_(
          static_cast<std::byte*>(::operator new(static_cast<size_t>(size + kSlack), kAlignment))),
      size_(size) {
    std::memset(memory_.get(), fill, static_cast<size_t>(size + kSlack));
}

void Bytes::Free::operator()(std::byte* memory) const {
    ::operator delete(memory, kAlignment);
}

std::vector<uint64_t> pack_flags(const uint8_t* flags, int64_t channels) {
    std::vector<uint64_t> words(static_cast<size_t>(ceil_div(channels, kWordBits)));
    for (int64_t c = 0; c < channels; ++c) {
        words[static_cast<size_t>(c / kWordBits)] |= uint64_t{flags[c] != 0} << (c % kWordBits);
    }
    return words;
}

}  // namespace bitwright
