// The threads that kernels compute with: they spin for microseconds, then sleep.
//
// OpenMP's threads meet at a barrier behind every operation and spin there for each other. On a machine that other
// processes use too, the thread that has lost its core holds up all others for as long as the system lets that process
// run. Here work is taken in small pieces by the threads that run, the calling one among them: a thread without a core
// takes none. The calling thread waits for the last piece: it spins, because the piece is nearly always there at once,
// then sleeps, so that the thread it waits for can have its core.

#pragma once

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

class Pool {
public:
    static Pool& get() {
        static Pool* pool = new Pool;  // never destroyed: its threads sleep in it when the process ends
        return *pool;
    }

    // While it lives, the thread that made it computes alone, if ``alone``.
    class Alone {
    public:
        explicit Alone(bool alone) : before_(inside_) { inside_ = inside_ || alone; }
        ~Alone() { inside_ = before_; }
        Alone(const Alone&) = delete;
        Alone& operator=(const Alone&) = delete;

    private:
        const bool before_;
    };

    int64_t threads() const { return threads_.load(std::memory_order_relaxed); }

    // Compute with so many threads from the next region on, the calling one included.
    void use(int64_t threads) {
        const std::lock_guard<std::mutex> lock(region_);
        threads_.store(std::clamp<int64_t>(threads, 1, MOST_THREADS));
        for (; workers_ < threads_ - 1; ++workers_) std::thread([this, number = workers_ + 1] { work(number); }).detach();
    }

    // Calls ``run(from, to)`` for all of [0, tasks), in pieces of ``grain`` tasks or more, in any order, on any thread.
    // A region within a region, or beside another thread's, is computed by its calling thread alone (see ``Alone`` too).
    template <typename F>
    void parallel(int64_t tasks, int64_t grain, const F& run) {
        const int64_t most = std::min(threads() * PIECES, MOST_PIECES);
        const int64_t pieces = std::min((tasks + grain - 1) / std::max<int64_t>(grain, 1), most);
        if (threads() == 1 || pieces <= 1 || inside_ || !region_.try_lock()) {
            if (tasks > 0) run(int64_t{0}, tasks);
            return;
        }
        const std::lock_guard<std::mutex> lock(region_, std::adopt_lock);
        const auto piece = [&](int64_t n) { run(tasks * n / pieces, tasks * (n + 1) / pieces); };
        inside_ = true;
        compute(&piece, [](const void* of, int64_t n) { (*static_cast<const decltype(piece)*>(of))(n); }, pieces);
        inside_ = false;
    }

private:
    using Call = void (*)(const void* of, int64_t piece);
    static constexpr int64_t MOST_THREADS = 256, MOST_PIECES = 4096;
    static constexpr int64_t PIECES = 6;  // for each thread: one that comes late, or is slower, takes fewer
    static constexpr std::chrono::microseconds SPIN{60};

    // Let workers take pieces, take them too, and return when all are computed.
    void compute(const void* of, Call call, int64_t pieces) {
        of_ = of;
        call_ = call;
        done_.store(0, std::memory_order_relaxed);
        const uint64_t region = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
        ticket_.store(region << 32 | static_cast<uint64_t>(pieces) << 16);
        if (asleep_.load() > 0) {
            calls_.fetch_add(1);
            calls_.notify_all();
        }
        take();
        const auto count = static_cast<int32_t>(pieces);
        spin([&] { return done_.load(std::memory_order_acquire) == count; });
        for (int32_t done; (done = done_.load(std::memory_order_acquire)) != count;) done_.wait(done);
    }

    // Compute pieces of the region in progress until none is left; which region that was.
    uint64_t take() {
        uint64_t ticket = ticket_.load();
        while ((ticket & 0xFFFF) < (ticket >> 16 & 0xFFFF)) {
            if (!ticket_.compare_exchange_weak(ticket, ticket + 1)) continue;
            // The region lasts until this piece is computed, so what describes it stays.
            call_(of_, static_cast<int64_t>(ticket & 0xFFFF));
            const auto pieces = static_cast<int32_t>(ticket >> 16 & 0xFFFF);
            if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces) done_.notify_one();
            ticket = ticket_.load();
        }
        return ticket >> 32;
    }

    void work(int64_t number) {
        at::get_num_threads();  // PyTorch gives each thread its default once, which would undo the next line later
        omp_set_num_threads(1);
        inside_ = true;
        const c10::InferenceMode inference;
        for (uint64_t seen = region();; seen = take()) {
            const auto called = [&] { return region() != seen && number < threads(); };
            if (!spin(called)) {
                asleep_.fetch_add(1);
                for (uint32_t calls = calls_.load(); !called(); calls = calls_.load()) calls_.wait(calls);
                asleep_.fetch_sub(1);
            }
        }
    }

    uint64_t region() const { return ticket_.load() >> 32; }

    // Whether ``ready`` became true within microseconds.
    template <typename F>
    static bool spin(const F& ready) {
        const auto until = std::chrono::steady_clock::now() + SPIN;
        do {
            for (int n = 0; n < 16; ++n) {
                if (ready()) return true;
                relax();
            }
        } while (std::chrono::steady_clock::now() < until);
        return ready();
    }

    std::mutex region_;
    std::atomic<int64_t> threads_{1};
    int64_t workers_ = 0;
    const void* of_ = nullptr;
    Call call_ = nullptr;
    alignas(64) std::atomic<uint64_t> ticket_{0};  // region, its pieces, the next one: 32, 16 and 16 bits
    alignas(64) std::atomic<int32_t> done_{0};
    alignas(64) std::atomic<int32_t> asleep_{0};
    std::atomic<uint32_t> calls_{0};  // of workers that slept
    static inline thread_local bool inside_ = false;
};

}  // namespace
