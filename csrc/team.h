// Threads that wait for work: a team serves one call at a time and is kept for the next.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace bitwright {

// The value changes soon or late: spin for some microseconds (a stage of one image is no longer),
// then sleep.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old);

// All of `count` threads arrive before any goes on.
class Barrier {
  public:
    explicit Barrier(int64_t count) : count_(static_cast<uint32_t>(count)), missing_(count_) {}
    void arrive_and_wait();

  private:
    const uint32_t count_;
    std::atomic<uint32_t> missing_, phase_{0};
};

class Team {
  public:
    // `size` threads, the caller's included.
    explicit Team(int64_t size);
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;
    ~Team();  // joins

    int64_t size() const { return static_cast<int64_t>(threads_.size()) + 1; }
    // False in a child process, where the threads of its parent do not exist.
    bool alive() const;
    // work(0) on the caller, work(1) ... work(size - 1) on the others. `work` does not throw.
    void run(const std::function<void(int64_t)>& work);

  private:
    void serve(int64_t index);

    std::vector<std::thread> threads_;
    std::atomic<uint32_t> round_{0}, running_{0};
    std::atomic<bool> ended_{false};
    const std::function<void(int64_t)>* work_ = nullptr;
    int process_;
};

}  // namespace bitwright
