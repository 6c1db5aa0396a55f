#include "team.h"

#include <utility>

#ifdef _WIN32
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

namespace bitwright {
namespace {

constexpr int kSpins = 4000;  // 50 to 200 microseconds

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
    for (int i = 0; i < kSpins; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

void Barrier::arrive_and_wait() {
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (missing_.fetch_sub(1, std::memory_order_acq_rel) > 1) {
        wait_while(phase_, phase);
        return;
    }
    missing_.store(count_, std::memory_order_relaxed);  // nobody arrives before the phase ends
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();
}

Team::Team(int64_t size) : process_(getpid()) {
    threads_.reserve(static_cast<size_t>(size - 1));
    try {
        for (int64_t i = 1; i < size; ++i) threads_.emplace_back([this, i] { serve(i); });
    } catch (...) {  // no more threads: end those that began
        ended_ = true;
        round_.fetch_add(1, std::memory_order_release);
        round_.notify_all();
        for (std::thread& thread : threads_) thread.join();
        throw;
    }
}

Team::~Team() {
    ended_ = true;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    if (!alive()) {  // nobody to join, and std::thread insists: the few bytes are left behind
        new std::vector<std::thread>(std::move(threads_));
        return;
    }
    for (std::thread& thread : threads_) thread.join();
}

bool Team::alive() const {
    return process_ == getpid();
}

void Team::run(const std::function<void(int64_t)>& work) {
    work_ = &work;
    running_.store(static_cast<uint32_t>(threads_.size()), std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    work(0);
    while (const uint32_t running = running_.load(std::memory_order_acquire)) {
        wait_while(running_, running);
    }
}

void Team::serve(int64_t index) {
    for (uint32_t seen = 0;; ++seen) {
        wait_while(round_, seen);
        if (ended_) return;
        (*work_)(index);
        if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
    }
}

}  // namespace bitwright
