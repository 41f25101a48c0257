import CShims
import Glibc
import SystemPackage

/// The process in which a tuner from outside runs, and the talk with it.
///
/// One call at a time goes to it, and has a second to be answered. Whatever comes
/// back that is not an answer, and whatever happens to the process, ends it and
/// is told by `ended`.
public actor ModuleHost {
  public struct Failure: Error, Sendable, Equatable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
  }

  /// One part of an answer.
  public enum Answer: Sendable, Equatable {
    case adjust(Adjustment)
    case leave(String)
    case score(Double)
  }

  /// As it was said: whether it makes sense is not known yet.
  public struct Adjustment: Sendable, Equatable {
    public let tunable: Int
    public let scenario: Int
    public let assumed: Int64
    public let wanted: Int64
    public let reason: String
  }

  /// What the tuner is called for.
  public enum Call: Sendable {
    case initialize
    case event(KernelEvent, values: [SysctlValue?], freeMemory: Int64, strategy: Int)
    case outcome(Result, tunable: Int, old: Int64, new: Int64, NamespaceID)
    case namespace(NamespaceID, appeared: Bool)
    case evaluate(strategy: Int, NamespaceID)

    public enum Result: Sendable {
      case applied, advised, stale, refused, recalled
    }

    var name: String {
      switch self {
      case .initialize: "init"
      case .event: "event"
      case .outcome: "outcome"
      case .namespace: "namespace_changed"
      case .evaluate: "evaluate"
      }
    }
  }

  /// How long a call may take.
  public static let patience = Duration.seconds(1)
  /// How long it may take to start, to load the module and to describe it.
  public static let startingPatience = Duration.seconds(5)

  private struct Pending {
    let number: UInt32
    let what: String
    var answers: [Answer] = []
    let continuation: CheckedContinuation<Result<[Answer], Failure>, Never>
    let deadline: Task<Void, Never>
  }

  private let loop: KernelLoop
  public nonisolated var unownedExecutor: UnownedSerialExecutor {
    loop.asUnownedSerialExecutor()
  }

  private let socket: Int32
  private let pidfd: Int32
  private let pid: pid_t
  private var pending: Pending?
  private var turns: [CheckedContinuation<Void, Never>] = []
  private var isBusy = false
  private var calls: UInt32 = 0
  private var failure: Failure?
  private var isEnding = false
  private var isGone = false
  private var goneWaiters: [CheckedContinuation<Void, Never>] = []
  private var said: ModuleDescription?
  private var object: [UInt8] = []
  /// Why the process ended, unless `end()` ended it; once.
  public nonisolated let ended: AsyncStream<Failure>
  private let tellEnd: AsyncStream<Failure>.Continuation

  /// Beside the daemon's executable where that was built, else where it was
  /// installed.
  public static let executable: String = {
    let path = withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 4096) { buffer in
      guard let base = buffer.baseAddress else { return "" }
      let count = readlink("/proc/self/exe", base, buffer.count)
      return String(decoding: buffer[..<max(0, count)], as: UTF8.self)
    }
    let directory = path.split(separator: "/").dropLast().joined(separator: "/")
    let beside = "/\(directory)/bpftune-module-host"
    return access(beside, X_OK) == 0
      ? beside : "/\(directory)/../libexec/bpftune/bpftune-module-host"
  }()

  /// Starts it with a module; the descriptor stays the caller's.
  public init(module: FileDescriptor, loop: KernelLoop) throws(SystemCallFailure) {
    self.loop = loop
    var pid: pid_t = 0
    var pidfd: Int32 = -1
    let socket = bpftune_module_start(Self.executable, module.rawValue, &pid, &pidfd)
    guard socket >= 0 else { throw SystemCallFailure("start", Self.executable) }
    self.socket = socket
    self.pid = pid
    self.pidfd = pidfd
    (ended, tellEnd) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    do {
      try loop.onReadable(pidfd) { [weak self] in self?.assumeIsolated { $0.processEnded() } }
      try loop.onReadable(socket) { [weak self] in self?.assumeIsolated { $0.receive() } }
    } catch {
      kill(pid, SIGKILL)
      throw error
    }
  }

  deinit {
    guard !isGone else { return }
    kill(pid, SIGKILL)
    _ = waitpid(pid, nil, 0)
    close(socket)
    close(pidfd)
  }

  // MARK: Calls

  /// What it says of itself, with its BPF object; the first call.
  public func describe() async throws(Failure) -> (ModuleDescription, object: [UInt8]) {
    _ = try await exchange("loading it", within: Self.startingPatience) { _ in nil }
    guard let said else { throw fail("it said nothing of itself") }
    return (said, object)
  }

  public func call(_ call: Call) async throws(Failure) -> [Answer] {
    try await exchange(call.name, within: Self.patience) { call.packet(number: $0) }
  }

  private func exchange(
    _ what: String, within patience: Duration, _ packet: (UInt32) -> [UInt8]?
  ) async throws(Failure) -> [Answer] {
    while isBusy { await withCheckedContinuation { turns.append($0) } }
    if let failure {
      wakeNext()
      throw failure
    }
    isBusy = true
    let number = calls
    calls &+= 1
    let bytes = packet(number)
    let result = await withCheckedContinuation { continuation in
      let loop = self.loop
      let deadline = Task(executorPreference: loop) { [weak self] in
        await loop.sleep(for: patience)
        if !Task.isCancelled { await self?.isLate(number) }
      }
      pending = Pending(
        number: number, what: what, continuation: continuation, deadline: deadline)
      // It reads each packet before it answers: there is room, unless it hangs.
      if let bytes, send(socket, bytes, bytes.count, Int32(MSG_NOSIGNAL)) != bytes.count {
        // A process that has ended is told of by its end.
        if errno != EPIPE && errno != ECONNRESET { fail("it does not listen") }
      }
    }
    isBusy = false
    wakeNext()
    return try result.get()
  }

  private func wakeNext() {
    if !turns.isEmpty { turns.removeFirst().resume() }
  }

  private func finish(_ result: Result<[Answer], Failure>) {
    guard let pending else { return }
    self.pending = nil
    pending.deadline.cancel()
    pending.continuation.resume(returning: result)
  }

  private func isLate(_ number: UInt32) {
    guard let pending, pending.number == number else { return }
    let limit = pending.what == "loading it" ? Self.startingPatience : Self.patience
    fail("takes longer than \(limit.components.seconds) s in \(pending.what)")
  }

  /// Ends the process at once: it did what it must not.
  @discardableResult
  public func fail(_ why: String) -> Failure {
    if failure == nil {
      failure = Failure(why)
      if !isGone { kill(pid, SIGKILL) }
      tellEnd.yield(failure ?? Failure(why))
      tellEnd.finish()
    }
    let known = failure ?? Failure(why)
    finish(.failure(known))
    return known
  }

  /// Lets the tuner finish, and ends the process; returns when it is gone.
  public func end() async {
    isEnding = true
    if failure == nil { failure = Failure("it is being unloaded") }
    tellEnd.finish()
    finish(.failure(Failure("it is being unloaded")))
    guard !isGone else { return }
    let bytes = bytes(of: bpftune_message(kind: UInt32(BPFTUNE_CALL_FINI.rawValue), call: calls))
    _ = send(socket, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    let loop = self.loop
    let deadline = Task(executorPreference: loop) { [pid] in
      await loop.sleep(for: Self.patience)
      if !Task.isCancelled { kill(pid, SIGKILL) }
    }
    await withCheckedContinuation { goneWaiters.append($0) }
    deadline.cancel()
  }

  /// The pid, for tests and the log.
  public nonisolated var process: pid_t { pid }

  // MARK: What comes back

  private func receive() {
    withUnsafeTemporaryAllocation(byteCount: 32768, alignment: 8) { buffer in
      while true {
        let count = recv(socket, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
        if count < 0 && errno == EINTR { continue }
        if count == 0 { loop.stopReading(socket) }
        guard count > 0 else { return }
        do throws(ModuleDescription.Nonsense) {
          try take(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<count]))
        } catch {
          fail("returns nonsense: \(error)")
        }
        if failure != nil && !isEnding { return }
      }
    }
  }

  private func take(_ packet: UnsafeRawBufferPointer) throws(ModuleDescription.Nonsense) {
    // What comes after it failed, or is to end, does not count.
    guard failure == nil else { return }
    guard packet.count >= MemoryLayout<bpftune_message>.size else {
      throw .init("a packet of \(packet.count) bytes")
    }
    let message = packet.loadUnaligned(as: bpftune_message.self)
    guard pending?.number == message.call else { throw .init("it talks without being asked") }
    switch bpftune_message_kind(rawValue: message.kind) {
    case BPFTUNE_SAYS_DESCRIPTION where message.call == 0 && said == nil:
      said = try ModuleDescription(packet)
    case BPFTUNE_SAYS_OBJECT where message.call == 0:
      try takeObject(packet.dropFirst(MemoryLayout<bpftune_message>.size))
    case BPFTUNE_SAYS_ADJUST where message.call > 0: try takeAdjustment(packet)
    case BPFTUNE_SAYS_LEAVE where message.call > 0:
      try add(.leave(takeText(packet, "its reason")))
    case BPFTUNE_SAYS_SCORE where message.call > 0:
      guard packet.count == MemoryLayout<bpftune_said_score>.size else {
        throw .init("a score of \(packet.count) bytes")
      }
      let score = packet.loadUnaligned(as: bpftune_said_score.self).score
      guard score.isFinite else { throw .init("a score of \(score)") }
      try add(.score(score))
    case BPFTUNE_SAYS_DONE where message.call > 0: finish(.success(pending?.answers ?? []))
    case BPFTUNE_SAYS_FAILED:
      // From `init`: what it said before is the reason.
      if case .leave(let why)? = pending?.answers.last {
        fail("cannot work here: \(why)")
      } else if message.call > 0 {
        fail("cannot work here, and does not say why")
      } else {
        fail(try takeText(packet, "its trouble"))
      }
    default: throw .init("a packet of kind \(message.kind)")
    }
  }

  private func add(_ answer: Answer) throws(ModuleDescription.Nonsense) {
    guard let count = pending?.answers.count, count < Int(BPFTUNE_MOST_ADJUSTMENTS) else {
      throw .init("more than \(BPFTUNE_MOST_ADJUSTMENTS) answers to one call")
    }
    pending?.answers.append(answer)
  }

  private func takeObject(_ bytes: Slice<UnsafeRawBufferPointer>) throws(ModuleDescription.Nonsense)
  {
    guard let said, object.count + bytes.count <= said.objectSize, !bytes.isEmpty else {
      throw .init("its BPF object is of another size than it says")
    }
    object += bytes
    if object.count == said.objectSize { finish(.success([])) }
  }

  private func takeAdjustment(_ packet: UnsafeRawBufferPointer) throws(ModuleDescription.Nonsense) {
    guard packet.count == MemoryLayout<bpftune_said_adjustment>.size else {
      throw .init("an adjustment of \(packet.count) bytes")
    }
    let adjustment = packet.loadUnaligned(as: bpftune_said_adjustment.self)
    try add(
      .adjust(
        Adjustment(
          tunable: Int(adjustment.tunable), scenario: Int(adjustment.scenario),
          assumed: adjustment.assumed, wanted: adjustment.wanted,
          reason: try ModuleDescription.text(adjustment.reason, "the reason of an adjustment"))))
  }

  private func takeText(
    _ packet: UnsafeRawBufferPointer, _ what: String
  ) throws(ModuleDescription.Nonsense) -> String {
    guard packet.count == MemoryLayout<bpftune_said_text>.size else {
      throw .init("a text of \(packet.count) bytes")
    }
    return try ModuleDescription.text(
      packet.loadUnaligned(as: bpftune_said_text.self).text, what)
  }

  // MARK: Its end

  private func processEnded() {
    let status = bpftune_module_reap(pidfd)
    guard status >= 0, !isGone else { return }
    // What it said before it ended still counts.
    receive()
    isGone = true
    loop.stopReading(socket)
    loop.stopReading(pidfd)
    close(socket)
    close(pidfd)
    if failure == nil {
      let what = pending.map { $0.what == "loading it" ? " while loading it" : " in \($0.what)" }
      let signal = status & 0x7f
      fail(
        (signal == 0
          ? "its process ended with status \(status >> 8 & 0xff)"
          : "crashed: \(String(cString: strsignal(signal)))") + (what ?? ""))
    }
    for waiter in goneWaiters { waiter.resume() }
    goneWaiters = []
  }
}

/// The bytes of a structure, to be sent.
private func bytes<T: BitwiseCopyable>(of value: T) -> [UInt8] {
  withUnsafeBytes(of: value) { Array($0) }
}

extension bpftune_namespace {
  fileprivate init(_ id: NamespaceID) {
    self.init(cookie: id.cookie, inode: id.inode, reserved: 0)
  }
}

extension ModuleHost.Call {
  fileprivate func packet(number: UInt32) -> [UInt8] {
    func message(_ kind: bpftune_message_kind) -> bpftune_message {
      bpftune_message(kind: UInt32(kind.rawValue), call: number)
    }
    switch self {
    case .initialize: return bytes(of: message(BPFTUNE_CALL_INIT))
    case .event(let event, let values, let freeMemory, let strategy):
      var seen = bpftune_observation()
      seen.where = bpftune_namespace(event.namespace)
      seen.scenario = UInt32(event.scenario)
      seen.folded = event.folded
      seen.strategy = UInt32(strategy)
      seen.process = event.process
      seen.time = event.time
      seen.free_memory = freeMemory
      if case .values(let numbers) = event.payload {
        withUnsafeMutableBytes(of: &seen.values) { target in
          numbers.prefix(Int(BPFTUNE_VALUES)).withUnsafeBytes { target.copyMemory(from: $0) }
        }
      }
      withUnsafeMutableBytes(of: &seen.current) { target in
        let current = target.bindMemory(to: bpftune_value.self)
        for (index, value) in values.prefix(current.count).enumerated() {
          let numbers = (value?.numbers ?? []) + [0, 0, 0]
          current[index] = bpftune_value(
            numbers: (numbers[0], numbers[1], numbers[2]), is_there: value == nil ? 0 : 1,
            reserved: 0)
        }
      }
      return bytes(of: bpftune_call_event(message: message(BPFTUNE_CALL_EVENT), seen: seen))
    case .outcome(let result, let tunable, let old, let new, let id):
      let word: bpftune_result =
        switch result {
        case .applied: BPFTUNE_APPLIED
        case .advised: BPFTUNE_ADVISED
        case .stale: BPFTUNE_STALE
        case .refused: BPFTUNE_REFUSED
        case .recalled: BPFTUNE_RECALLED
        }
      return bytes(
        of: bpftune_call_outcome(
          message: message(BPFTUNE_CALL_OUTCOME),
          outcome: bpftune_outcome(
            where: bpftune_namespace(id), tunable: UInt32(tunable), result: word, old_value: old,
            new_value: new)))
    case .namespace(let id, let appeared):
      return bytes(
        of: bpftune_call_namespace(
          message: message(BPFTUNE_CALL_NAMESPACE), where: bpftune_namespace(id),
          appeared: appeared ? 1 : 0, strategy: 0))
    case .evaluate(let strategy, let id):
      return bytes(
        of: bpftune_call_namespace(
          message: message(BPFTUNE_CALL_EVALUATE), where: bpftune_namespace(id), appeared: 0,
          strategy: UInt32(strategy)))
    }
  }
}
