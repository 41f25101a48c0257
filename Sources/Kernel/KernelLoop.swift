import CShims
import Glibc
import Synchronization
import SystemPackage

/// The daemon's one thread: it waits in epoll for the ring buffer, signals and
/// timers, and runs every actor of the daemon in between.
///
/// Actors name it as their executor, so that an event goes from the ring buffer
/// through a stream and two actors to the sysctl without a change of thread,
/// and so that a blocking call or `setns` never happens on the cooperative
/// pool. While nothing happens the thread sleeps without a time-out.
public final class KernelLoop: SerialExecutor, TaskExecutor, @unchecked Sendable {
  // Safe: `shared` is behind a mutex; `local` is touched only by the thread
  // inside `run()`, which `isCurrent` checks; the descriptors never change.

  private struct Shared {
    var jobs: [UnownedJob] = []
    var stopped = false
  }

  private struct Local {
    var jobs: [UnownedJob] = []
    var handlers: [Int32: () -> Void] = [:]
    var timers: [Timer] = []  // sorted, the next one last
    var nextTimer = 0
  }

  private struct Timer {
    let id: Int
    let deadline: ContinuousClock.Instant
    let continuation: CheckedContinuation<Void, Never>
  }

  private let shared = Mutex(Shared())
  private let thread = Atomic<UInt>(0)
  private var local = Local()
  private let epoll: FileDescriptor
  private let wakeUp: FileDescriptor

  /// Throws when the kernel gives no epoll or eventfd descriptor.
  public init() throws(SystemCallFailure) {
    epoll = try descriptor(of: "epoll_create1") { epoll_create1(Int32(EPOLL_CLOEXEC)) }
    wakeUp = try descriptor(of: "eventfd") {
      eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
    }
    try register(wakeUp.rawValue)
  }

  deinit {
    try? epoll.close()
    try? wakeUp.close()
  }

  // MARK: Running

  /// Runs until `stop()`. The calling thread becomes the loop.
  public func run() {
    thread.store(UInt(pthread_self()), ordering: .releasing)
    defer { thread.store(0, ordering: .releasing) }
    // A table can be full within a millisecond of its event, while every CPU is
    // busy. Events are few, so this takes nothing from others; where it is not
    // allowed the loop works as well, only later.
    _ = bpftune_run_soon()
    var events = [epoll_event](repeating: epoll_event(), count: 16)
    while true {
      runJobs()
      if shared.withLock({ $0.stopped }) { return }
      let count = epoll_wait(epoll.rawValue, &events, Int32(events.count), timeout())
      // EINTR, also after a suspend: nothing is lost, wait again. Anything else
      // would come back at once, for ever.
      guard count >= 0 || errno == EINTR else {
        fatalError("epoll_wait: \(Errno(rawValue: errno))")
      }
      for event in events.prefix(max(0, Int(count))) {
        if event.data.fd == wakeUp.rawValue {
          var value: UInt64 = 0
          _ = read(wakeUp.rawValue, &value, 8)
        } else {
          local.handlers[event.data.fd]?()
        }
      }
      fireTimers()
    }
  }

  /// Lets `run()` return once the jobs that are ready have run.
  public func stop() {
    shared.withLock { $0.stopped = true }
    wake()
  }

  private var isCurrent: Bool { thread.load(ordering: .acquiring) == UInt(pthread_self()) }

  private func wake() {
    var one: UInt64 = 1
    _ = write(wakeUp.rawValue, &one, 8)
  }

  private func runJobs() {
    while true {
      var jobs = local.jobs
      local.jobs.removeAll()
      shared.withLock { state in
        jobs += state.jobs
        state.jobs.removeAll(keepingCapacity: true)
      }
      if jobs.isEmpty { return }
      for job in jobs {
        job.runSynchronously(
          isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
      }
    }
  }

  // MARK: Executor

  public func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    if isCurrent {
      local.jobs.append(job)
    } else {
      shared.withLock { $0.jobs.append(job) }
      wake()
    }
  }

  public func asUnownedSerialExecutor() -> UnownedSerialExecutor {
    UnownedSerialExecutor(ordinary: self)
  }

  public func asUnownedTaskExecutor() -> UnownedTaskExecutor {
    UnownedTaskExecutor(ordinary: self)
  }

  public func checkIsolated() {
    precondition(isCurrent, "must run on the kernel loop")
  }

  // MARK: Descriptors

  /// Calls `handler` on the loop whenever the descriptor is readable. Call it
  /// before `run()` or on the loop; the descriptor has to outlive the loop, or
  /// `stopReading`. It may be called once too often where another descriptor with
  /// the same number was let go of just before.
  public func onReadable(_ fd: Int32, _ handler: @escaping () -> Void) throws(SystemCallFailure) {
    try register(fd)
    local.handlers[fd] = handler
  }

  /// Lets go of a descriptor, which can be closed then. Only on the loop.
  public func stopReading(_ fd: Int32) {
    guard local.handlers.removeValue(forKey: fd) != nil else { return }
    epoll_ctl(epoll.rawValue, EPOLL_CTL_DEL, fd, nil)
  }

  private func register(_ fd: Int32) throws(SystemCallFailure) {
    var event = epoll_event(events: EPOLLIN.rawValue, data: epoll_data_t(fd: fd))
    guard epoll_ctl(epoll.rawValue, EPOLL_CTL_ADD, fd, &event) == 0 else {
      throw SystemCallFailure("epoll_ctl", "descriptor \(fd)")
    }
  }

  // MARK: Timers

  /// Suspends for a time, or until the task is cancelled. Only on the loop.
  public func sleep(for duration: Duration) async {
    checkIsolated()
    local.nextTimer += 1
    let id = local.nextTimer
    let deadline = ContinuousClock.now + duration
    await withTaskCancellationHandler {
      await withCheckedContinuation(isolation: nil) { continuation in
        if Task.isCancelled { return continuation.resume() }
        let timer = Timer(id: id, deadline: deadline, continuation: continuation)
        let index = local.timers.firstIndex { $0.deadline < deadline } ?? local.timers.endIndex
        local.timers.insert(timer, at: index)
      }
    } onCancel: {
      Task(executorPreference: self) { self.cancelTimer(id) }
    }
  }

  private func cancelTimer(_ id: Int) {
    guard let index = local.timers.firstIndex(where: { $0.id == id }) else { return }
    local.timers.remove(at: index).continuation.resume()
  }

  private func fireTimers() {
    guard !local.timers.isEmpty else { return }
    let now = ContinuousClock.now
    while let timer = local.timers.last, timer.deadline <= now {
      local.timers.removeLast()
      timer.continuation.resume()
    }
  }

  /// Milliseconds until the next timer, rounded up; -1 without one.
  private func timeout() -> Int32 {
    guard let next = local.timers.last else { return -1 }
    let left = ContinuousClock.now.duration(to: next.deadline).components
    let milliseconds = left.seconds * 1000 + left.attoseconds / 1_000_000_000_000_000 + 1
    return Int32(clamping: max(0, milliseconds))
  }
}
