public import Kernel
public import State

/// udp-buffer: raises the size of UDP receive buffers where a reader keeps up,
/// but bursts do not fit; and the memory of all of UDP where that is what
/// refuses datagrams.
///
/// A socket gets its buffer when it is opened (`sock_init_data` in
/// net/core/sock.c), or when it asks for one. So a raise reaches only sockets
/// opened later, and a drop counts for the next one only if the socket's buffer
/// is of the size that is in force: compare before write takes care of that.
public struct UDPBuffer: Policy {
  public static let name = "udp-buffer"
  public static let scope = Tunable.Scope.global

  /// Bytes that a new socket gets.
  public static let initial = Tunable(
    "net.core.rmem_default", .scalar, .global, bounds: 2304...Int64(Int32.max))
  /// The most that SO_RCVBUF gives; the kernel doubles it for its own overhead.
  public static let largest = Tunable(
    "net.core.rmem_max", .scalar, .global, bounds: 2304...Int64(Int32.max / 2))
  /// Pages: UDP takes no account below the first, presses from the second on,
  /// and refuses at the third.
  public static let memory = Tunable(
    "net.ipv4.udp_mem", .triple, .global, bounds: 1...Int64(Int32.max))
  public static let tunables = [initial, largest, memory]

  public static let signals = [
    Signal(
      "UDP datagram without room",
      [
        Hook(
          .section(.tracepoint), "tp_btf/udp_fail_queue_rcv_skb", object: "udp_buffer",
          program: "udp_buffer_drop")
      ]),
    // Linux 6.18 tells of it by the first alone, older ones by the second.
    Signal(
      "UDP out of memory",
      [
        Hook(
          .dropReason("SKB_DROP_REASON_PROTO_MEM"), "tp_btf/kfree_skb, PROTO_MEM",
          object: "udp_buffer",
          program: "udp_buffer_no_memory", since: KernelVersion(6, 11)),
        Hook(
          .section(.tracepoint), "tp_btf/udp_fail_queue_rcv_skb", object: "udp_buffer",
          program: "udp_buffer_drop"),
      ]),
  ]

  public static let request: Signal? = Signal(
    "UDP sockets that dropped, on request",
    [Hook(.request, "raw_tp, run by hand", object: "udp_buffer", program: "udp_buffer_report")])

  /// `enum udp_buffer_scenario` in bpf/udp_buffer.bpf.c.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case full = 1
    case memory = 2
    case look = 3
    case report = 4
  }

  /// `enum udp_buffer_value` in bpf/udp_buffer.bpf.c: which number is which.
  private enum Value: Int, CaseIterable {
    case socket, limit, locked, port, queued, drops, bytes, broadcast
    case held, low, pressure, high
  }

  public static let mirrors: [String: [String: Int64]] = [
    "udp_buffer_scenario": [
      "UDP_BUFFER_FULL": Scenario.full.rawValue,
      "UDP_BUFFER_MEMORY": Scenario.memory.rawValue,
      "UDP_BUFFER_LOOK": Scenario.look.rawValue,
      "UDP_BUFFER_REPORT": Scenario.report.rawValue,
    ],
    "udp_buffer_value": Dictionary(
      uniqueKeysWithValues: zip(
        [
          "SOCKET", "LIMIT", "LOCKED", "PORT", "QUEUED", "DROPS", "BYTES", "BROADCAST", "HELD",
          "LOW", "PRESSURE", "HIGH",
        ].map { "UDP_BUFFER_" + $0 }, Value.allCases.map { Int64($0.rawValue) })),
  ]

  /// A socket that drops, or has dropped lately.
  public struct Observation: Sendable, Equatable {
    public var scenario: Scenario
    /// Tells sockets apart.
    public var socket: Int64
    /// Bytes: its buffer.
    public var limit: Int64
    /// The program has asked for that size.
    public var isLocked: Bool
    public var port: Int64
    /// Bytes in its queue, with the kernel's overhead.
    public var queued: Int64
    /// Datagrams dropped in this episode, the bytes that they would have
    /// taken, and how many of them were broadcast.
    public var drops: Int64
    public var bytes: Int64
    public var broadcast: Int64
    /// Pages that UDP holds in all, and the three limits of `udp_mem`.
    public var held: Int64
    public var memoryLimits: [Int64]
    public var namespace: NamespaceID
    /// Bytes that are free on the machine.
    public var freeMemory: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64

    /// Nanoseconds since then; 0 when that lies ahead.
    func elapsed(since then: UInt64) -> UInt64 { time > then ? time - then : 0 }
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    return Observation(
      scenario: scenario, socket: value(.socket), limit: value(.limit),
      isLocked: value(.locked) != 0, port: value(.port), queued: value(.queued),
      drops: value(.drops), bytes: value(.bytes), broadcast: value(.broadcast),
      held: value(.held), memoryLimits: [value(.low), value(.pressure), value(.high)],
      namespace: event.namespace, freeMemory: freeMemory, time: event.time)
  }

  // MARK: State

  /// How long things take.
  public struct Times: Sendable {
    /// Until a socket that drops is looked at for the first time; twice as long
    /// each time after that.
    public var look: Duration
    /// For how long its queue may stay filled before its reader is too slow.
    public var patience: Duration
    /// Between two looks at what was raised.
    public var interval: Duration
    /// Without a drop, what was raised goes back after that time; twice as long
    /// each time it turns out to be needed again.
    public var quiet: Duration

    public init(
      look: Duration = .milliseconds(20), patience: Duration = .seconds(2),
      interval: Duration = .seconds(60), quiet: Duration = .seconds(540)
    ) {
      self.look = look
      self.patience = patience
      self.interval = interval
      self.quiet = quiet
    }
  }

  /// What was found out about a socket.
  enum Verdict {
    case broadcast
    /// Its queue does not run empty.
    case slow
    /// It would need more than there may be.
    case bounded
    /// It was opened before the last raise, or has a size of its own choice.
    case beyondReach
    /// Raised, or advised.
    case done
  }

  /// A socket that drops.
  struct Candidate {
    let since: UInt64
    var lastSeen: UInt64
    var looks = 0
    /// Dropped for want of memory for all of UDP.
    var isShort: Bool
    var verdict: (Verdict, at: UInt64)?
  }

  /// A tunable that is raised.
  struct Raised {
    let original: SysctlValue
    var current: SysctlValue
    var isRaised = true
    /// When it was needed last.
    var needed: UInt64
    /// Nanoseconds without need before it goes back.
    var hold: UInt64
  }

  let learningRate: LearningRate
  let times: Times
  var candidates: [Int64: Candidate] = [:]
  var raised: [Tunable: Raised] = [:]
  /// Which socket an adjustment is for that is under way.
  var adjusting: (socket: Int64, time: UInt64)?

  /// What was said of sockets in this minute.
  var said: (since: UInt64, about: Set<String>) = (0, [])

  static let mostCandidates = 64
  /// Bytes: the most that every new socket gets, and the most that one may ask for.
  static let mostInitial: Int64 = 8 << 20
  static let mostLargest: Int64 = 64 << 20
  /// By how much the memory of UDP grows beyond what it was, at most.
  static let mostMemory: Int64 = 8
  /// Nanoseconds: what was found out about a socket holds that long.
  static let memoryOfVerdicts: UInt64 = 60_000_000_000
  static let mostHold: UInt64 = 6 * 3_600_000_000_000

  public init(learningRate: LearningRate) { self.init(learningRate: learningRate, times: Times()) }

  public init(learningRate: LearningRate, times: Times) {
    self.learningRate = learningRate
    self.times = times
  }

  /// Soon while a socket is to be judged, and seldom while something is raised.
  public var recheck: Duration? {
    let open = candidates.values.filter { $0.verdict == nil }
    if let looks = open.map(\.looks).min() { return times.look * (1 << min(looks, 5)) }
    return raised.values.contains { $0.isRaised } ? times.interval : nil
  }

  // MARK: Outcomes

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    let tunable = adjustment.tunable
    let time = adjusting?.time ?? 0
    switch outcome {
    case .applied(let old, let new, _):
      var entry =
        raised[tunable]
        ?? Raised(original: old, current: new, needed: time, hold: times.quiet.nanoseconds)
      // Needed again soon after it went back.
      if !entry.isRaised { entry.hold = min(entry.hold * 2, Self.mostHold) }
      entry.current = new
      entry.needed = max(entry.needed, time)
      entry.isRaised = new != entry.original
      raised[tunable] = entry
    case .refused(.stale): note(.beyondReach)
    case .refused(.administrator): raised[tunable] = nil
    case .advised, .refused: break
    }
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    raised[holding.tunable] = Raised(
      original: holding.original, current: holding.written, needed: time,
      hold: times.quiet.nanoseconds)
  }

  mutating func note(_ verdict: Verdict) {
    guard let adjusting else { return }
    candidates[adjusting.socket]?.verdict = (verdict, adjusting.time)
  }
}
