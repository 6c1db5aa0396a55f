// Threads that are joined when the scope ends, however it ends.
#pragma once

#include <cstdint>
#include <thread>
#include <vector>

namespace bitwright {

class Threads {
  public:
    Threads() = default;
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;
    ~Threads() {
        for (std::thread& thread : threads_) thread.join();
    }
    template <typename Work>
    void start(const Work& work, int64_t slice) {
        threads_.emplace_back(work, slice);
    }

  private:
    std::vector<std::thread> threads_;
};

}  // namespace bitwright
