// A thread pool: a product of a few microseconds cannot wait for threads to be made.
#pragma once

#include <functional>

namespace sparse {

// Runs task(0) ... task(count - 1), one a thread, the last on this one, and waits for all. Runs all of them on this
// thread if the pool is busy for another caller.
void run_parallel(int count, const std::function<void(int)>& task);

}  // namespace sparse
