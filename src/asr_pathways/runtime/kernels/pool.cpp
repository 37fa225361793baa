#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace sparse {
namespace {

// How often a thread polls for work before it sleeps: some tens of microseconds.
constexpr int kSpins = 4096;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
public:
    // Only one caller at a time.
    void run(int count, const std::function<void(int)>& task) {
        while (static_cast<int>(workers_.size()) < count - 1) {
            const int index = static_cast<int>(workers_.size());
            workers_.emplace_back([this, index, seen = generation_.load()] { serve(index, seen); });
        }
        pending_.store(count - 1, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            task_ = &task;
            count_ = count;
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        task(count - 1);
        for (int spin = 0; pending_.load(std::memory_order_acquire) > 0; ++spin)
            spin < kSpins ? relax() : std::this_thread::yield();
    }

private:
    void serve(int index, unsigned seen) {
        for (;;) {
            for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) relax();
            const std::function<void(int)>* task;
            int count;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_.load() != seen; });
                seen = generation_.load();
                task = task_;
                count = count_;
            }
            if (index >= count - 1) continue;
            (*task)(index);
            pending_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<unsigned> generation_{0};
    std::atomic<int> pending_{0};
    const std::function<void(int)>* task_ = nullptr;
    int count_ = 0;
};

std::mutex busy;

// The pool of this process: a fork has none of its parent's threads, so it gets a pool of its own.
// Pools are never destroyed: their threads may not outlive them, and end with the process.
Pool& pool_of_this_process() {
    static Pool* pool = nullptr;
    static pid_t owner = 0;
    if (owner != getpid()) {
        pool = new Pool;
        owner = getpid();
    }
    return *pool;
}

}  // namespace

void run_parallel(int count, const std::function<void(int)>& task) {
    std::unique_lock<std::mutex> lock(busy, std::try_to_lock);
    if (count <= 1 || !lock.owns_lock()) {
        for (int index = 0; index < count; ++index) task(index);
        return;
    }
    pool_of_this_process().run(count, task);
}

}  // namespace sparse
