public import Kernel

/// tcp-buffer: raises the maximum of `tcp_wmem` and `tcp_rmem` for connections
/// that it holds back, and switches receive buffer moderation on.
///
/// A limit says nothing about how far the path would go beyond it, so a step is
/// a multiple of what is there, and the next event says whether it was enough.
/// It is taken only while steps bring throughput: when the last one for that
/// peer only made the round trip longer, the path is the limit.
public struct TCPBuffer: Policy {
  public static let name = "tcp-buffer"

  public static let sendMaximum = Tunable(
    "net.ipv4.tcp_wmem", .triple, .perNamespace, bounds: 4096...Int64(Int32.max))
  public static let receiveMaximum = Tunable(
    "net.ipv4.tcp_rmem", .triple, .perNamespace, bounds: 4096...Int64(Int32.max))
  public static let moderation = Tunable(
    "net.ipv4.tcp_moderate_rcvbuf", .scalar, .perNamespace, bounds: 0...1)
  public static let tunables = [sendMaximum, receiveMaximum, moderation]

  public static let signals = limitSignals + queueSignals
  private static let limitSignals = [
    Signal(
      "TCP send buffer limit",
      [
        Hook(
          .section(.fentry), "fentry/tcp_sndbuf_expand", object: "tcp_buffer_fentry",
          program: "tcp_buffer_sndbuf_expand", since: Hook.trampolines),
        Hook(
          .section(.kprobe), "kprobe/tcp_sndbuf_expand", object: "tcp_buffer_kprobe",
          program: "tcp_buffer_sndbuf_expand_kprobe"),
        Hook(
          .cgroup(.sockOps), "sock_ops/RTT_CB", object: "tcp_buffer",
          program: "tcp_buffer_sock_ops"),
        Hook(
          .iterator(every: .seconds(5)), "iter/tcp every 5 s", object: "tcp_buffer_iter",
          program: "tcp_buffer_poll_send"),
      ]),
    Signal(
      "TCP receive buffer limit",
      [
        Hook(
          .section(.tracepoint), "tp_btf/tcp_rcv_space_adjust", object: "tcp_buffer",
          program: "tcp_buffer_rcv_space_adjust"),
        Hook(
          .iterator(every: .seconds(5)), "iter/tcp every 5 s", object: "tcp_buffer_iter",
          program: "tcp_buffer_poll_receive"),
      ]),
  ]

  /// The callback of sock_ops has to be asked for, connection by connection;
  /// where that cannot be done later, the older ones are looked at instead.
  public static let adoption: Signal? = Signal(
    "TCP connections older than the daemon", onlyWith: .sockOps,
    [
      Hook(
        .iterator(every: .zero), "iter/tcp", object: "tcp_buffer_iter",
        program: "tcp_buffer_adopt", since: KernelVersion(6, 12), isIdleBefore: true),
      Hook(
        .iterator(every: .seconds(5)), "iter/tcp every 5 s", object: "tcp_buffer_iter",
        program: "tcp_buffer_poll_send"),
    ])

  /// `enum tcp_buffer_scenario` in bpf/tcp_buffer.h.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case sendLimit = 1
    case receiveLimit = 2
    case moderationOff = 3
    case sendQueue = 4
    case receiveQueue = 5

    var name: String {
      switch self {
      case .sendLimit: "need to increase TCP send buffer"
      case .receiveLimit: "need to increase TCP receive buffer"
      case .moderationOff: "need to switch TCP receive buffer moderation on"
      case .sendQueue: "TCP send buffers make a queue"
      case .receiveQueue: "TCP receive buffers make a queue"
      }
    }
  }

  /// `enum tcp_buffer_value` in bpf/tcp_buffer.h: which number is which.
  private enum Value: Int, CaseIterable {
    case limit, size, inFlight, window, rtt, rttMin
    case memory, memoryLow, memoryPressure, memoryHigh
    case peerHigh, peerLow, ports
    case need, initial, carried
  }

  public static let mirrors: [String: [String: Int64]] = [
    "tcp_buffer_scenario": [
      "TCP_BUFFER_SEND_LIMIT": Scenario.sendLimit.rawValue,
      "TCP_BUFFER_RECEIVE_LIMIT": Scenario.receiveLimit.rawValue,
      "TCP_BUFFER_MODERATION_OFF": Scenario.moderationOff.rawValue,
      "TCP_BUFFER_SEND_QUEUE": Scenario.sendQueue.rawValue,
      "TCP_BUFFER_RECEIVE_QUEUE": Scenario.receiveQueue.rawValue,
    ],
    "tcp_buffer_value": Dictionary(
      uniqueKeysWithValues: zip(
        [
          "LIMIT", "SIZE", "IN_FLIGHT", "WINDOW", "RTT", "RTT_MIN", "MEMORY", "MEMORY_LOW",
          "MEMORY_PRESSURE", "MEMORY_HIGH", "PEER_HIGH", "PEER_LOW", "PORTS", "NEED", "INITIAL",
          "CARRIED",
        ].map { "TCP_BUFFER_" + $0 }, Value.allCases.map { Int64($0.rawValue) })),
  ]

  /// A connection that a limit holds back.
  public struct Observation: Sendable, Equatable {
    public var scenario: Scenario
    /// Bytes: the maximum in force at the event.
    public var limit: Int64
    /// Bytes: the connection's buffer.
    public var size: Int64
    /// Bytes sent and not acknowledged, or copied to the reader in a round trip.
    public var inFlight: Int64
    /// Bytes: congestion window, or the most that the window scale lets through.
    public var window: Int64
    /// Microseconds, smoothed.
    public var rtt: Int64
    /// Microseconds: the shortest lately; 0 when not known.
    public var rttMin: Int64
    /// Bytes of buffer that the connections of the namespace needed at most,
    /// lately; where a queue stands.
    public var need: Int64 = 0
    /// Bytes: the starting size in force; where a queue stands.
    public var initial: Int64 = 0
    /// Bytes that a path of the namespace took in its shortest round trip, at
    /// most; where a queue stands.
    public var carried: Int64 = 0
    /// Pages that TCP holds in all, and the three limits of `tcp_mem`.
    public var memory: Int64
    public var memoryLimits: [Int64]
    /// Bytes that are free on the machine.
    public var freeMemory: Int64
    public var peer: PeerAddress
    public var localPort: Int64
    public var remotePort: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    return Observation(
      scenario: scenario, limit: value(.limit), size: value(.size), inFlight: value(.inFlight),
      window: value(.window), rtt: value(.rtt),
      rttMin: value(.rttMin) == Int64(UInt32.max) ? 0 : value(.rttMin), need: value(.need),
      initial: value(.initial), carried: value(.carried), memory: value(.memory),
      memoryLimits: [value(.memoryLow), value(.memoryPressure), value(.memoryHigh)],
      freeMemory: freeMemory, peer: PeerAddress(high: value(.peerHigh), low: value(.peerLow)),
      localPort: value(.ports) >> 16 & 0xffff, remotePort: value(.ports) & 0xffff,
      time: event.time)
  }

  // MARK: State

  private struct Path: Hashable {
    let peer: PeerAddress
    let scenario: Scenario
  }

  /// What is known of a path.
  private struct Known {
    /// Microseconds: the shortest round trip that events have shown.
    var bestRTT: Int64
    var lastSeen: UInt64
    /// What was seen when the last step was taken for it.
    var step: Observation?
    /// A large step that waits for a second event to confirm it.
    var unconfirmed: Observation?
  }

  /// What is done about queues, by the tunable.
  var queues: [Tunable: Queue] = [:]
  /// The queue because of which a maximum comes down.
  var pending: Observation?
  private let learningRate: LearningRate
  private var known: [Path: Known] = [:]
  private static let mostPaths = 64
  /// How many paths it remembers.
  var knownPaths: Int { known.count }
  /// For how long a step that brought nothing stops the next one.
  private static let memoryOfSteps: UInt64 = 60_000_000_000
  /// Nanoseconds without a queue after which what was lowered goes up.
  private static let withoutQueue: UInt64 = 500_000_000
  /// Bytes: a step to more than this has to be confirmed. A connection in slow
  /// start overshoots the path's capacity for a round trip, and fills whatever
  /// it is given.
  private static let confirmAbove: Int64 = 8 << 20

  public init(learningRate: LearningRate) { self.learningRate = learningRate }

  // MARK: Deciding

  public mutating func decide(_ seen: Observation) -> Decision {
    if seen.scenario == .moderationOff {
      return .adjust([
        Adjustment(
          Self.moderation, from: 0, to: 1, scenario: seen.scenario.name,
          reason: "\(title(seen)) stays at \(Words.bytes(seen.size))"
            + " since the kernel may not grow it")
      ])
    }
    guard seen.limit > 0, seen.limit <= Int64(Int32.max), seen.memoryLimits.count == 3 else {
      return .leave("no limit is known")
    }
    if seen.scenario == .sendQueue || seen.scenario == .receiveQueue { return shorten(seen) }
    guard seen.memory < seen.memoryLimits[0] else {
      return .leave(
        "TCP holds \(seen.memory) pages and its memory is short from \(seen.memoryLimits[0])")
    }
    let path = Path(peer: seen.peer, scenario: seen.scenario)
    var known = remember(path, seen)
    defer { self.known[path] = known }
    if let step = known.step, let why = pointless(seen, after: step) { return .leave(why) }
    let tunable = seen.scenario == .sendLimit ? Self.sendMaximum : Self.receiveMaximum
    let isLowered = queues[tunable]?.lowered != nil
    if let why = queues[tunable]?.keepsDown(seen, bestRTT: known.bestRTT) {
      known.unconfirmed = nil
      return .leave(why)
    }

    let growth = growth(seen, bestRTT: known.bestRTT)
    guard growth > 1 else {
      return .leave(
        "the round trip is \(Words.microseconds(seen.rtt)) against"
          + " \(Words.microseconds(known.bestRTT)) at best: the path is full")
    }
    let ceiling = ceiling(seen)
    let wanted = min(Int64(Double(seen.limit) * growth), ceiling) & ~4095
    guard wanted > seen.limit + seen.limit / 8 else {
      return .leave(
        "\(Words.bytes(seen.limit)) is as much as this path or"
          + " the memory calls for (\(Words.bytes(ceiling)))")
    }
    let isDoubtful = wanted > Self.confirmAbove || hasQueue(seen, bestRTT: known.bestRTT)
    // A connection that starts has no queue yet: where there was one, it has to
    // have none for longer.
    let wait = isLowered ? Self.withoutQueue : 0
    if isDoubtful || isLowered, !confirms(seen, known.unconfirmed, after: wait) {
      if known.unconfirmed?.limit != seen.limit { known.unconfirmed = seen }
      return .leave("a step to \(Words.bytes(wanted)) waits for a second event")
    }
    known.step = seen
    known.unconfirmed = nil
    var adjustment = Adjustment(
      tunable, from: seen.limit, to: wanted, scenario: seen.scenario.name, reason: reason(seen))
    adjustment.measure = .connections(
      peer: seen.peer, seen.scenario == .sendLimit ? .sending : .receiving)
    return .adjust([adjustment])
  }

  /// Why another step would bring nothing, judged by the last one.
  private func pointless(_ seen: Observation, after step: Observation) -> String? {
    guard seen.limit > step.limit, seen.time &- step.time < Self.memoryOfSteps,
      step.rtt > 0, seen.rtt > 0
    else { return nil }
    let before = Double(step.inFlight) / Double(step.rtt)
    let after = Double(seen.inFlight) / Double(seen.rtt)
    guard after < before * 1.25, seen.rtt - step.rtt > step.rtt / 4 else { return nil }
    return "the last step made the round trip longer"
      + " (\(Words.microseconds(step.rtt)) -> \(Words.microseconds(seen.rtt))), not the rate higher"
  }

  /// Whether the connection still stands at the same limit that time, in
  /// nanoseconds, later: no less than a round trip.
  private func confirms(_ seen: Observation, _ first: Observation?, after time: UInt64) -> Bool {
    guard let first, first.limit == seen.limit else { return false }
    return seen.time &- first.time >= max(time, UInt64(clamping: seen.rtt) * 1000)
  }

  /// By how much one step multiplies the limit. Small buffers are further from
  /// what a fast path needs than large ones, and cost less.
  private func growth(_ seen: Observation, bestRTT: Int64) -> Double {
    let most: Double = seen.limit < 1 << 20 ? 8 : 4
    if bestRTT >= 1000, seen.rtt / 2 >= bestRTT { return 1 }
    return learningRate.growth(most: hasQueue(seen, bestRTT: bestRTT) ? 2 : most)
  }

  /// Whether a queue stands on the path: it is near its capacity, or past it;
  /// or the connection has only begun, and it is gone a round trip later.
  private func hasQueue(_ seen: Observation, bestRTT: Int64) -> Bool {
    bestRTT >= 1000 && seen.rtt - bestRTT >= bestRTT / 2
  }

  /// Bytes: the most that one connection may be given.
  private func ceiling(_ seen: Observation) -> Int64 {
    // Eight connections at the maximum still leave TCP below its pressure mark.
    let share = seen.memoryLimits[1].multipliedReportingOverflow(by: Memory.pageSize)
    let fair = share.overflow ? Int64.max : share.partialValue / 8
    // Twice what 100 Gbit/s carries in a round trip: no path needs more.
    let useful = max(seen.rtt, 1).multipliedReportingOverflow(by: 25_000)
    // And as many of what is left before it is short.
    let left = (seen.memoryLimits[0] - seen.memory)
      .multipliedReportingOverflow(by: Memory.pageSize)
    return [
      fair, left.overflow ? .max : left.partialValue / 8, seen.freeMemory / 16,
      useful.overflow ? .max : useful.partialValue,
      Int64(Int32.max),
    ].min() ?? 0
  }

  /// What is known of the path, with this event taken into account.
  private mutating func remember(_ path: Path, _ seen: Observation) -> Known {
    if known.count >= Self.mostPaths, known[path] == nil,
      let oldest = known.min(by: { $0.value.lastSeen < $1.value.lastSeen })
    {
      known[oldest.key] = nil
    }
    // A receiver's own is of the handshake, and its estimate under load is
    // longer without a queue too.
    let rttMin = seen.scenario == .receiveLimit ? 0 : seen.rttMin
    let rtt = rttMin > 0 ? rttMin : seen.rtt
    var entry = known[path] ?? Known(bestRTT: rtt, lastSeen: seen.time)
    // Routes change: what was best long ago says nothing.
    let stale = seen.time &- entry.lastSeen > Self.memoryOfSteps
    entry.bestRTT = stale || rttMin > 0 ? rtt : min(entry.bestRTT, rtt)
    entry.lastSeen = seen.time
    return entry
  }

  // MARK: Words

  func title(_ seen: Observation) -> String {
    let sends = seen.scenario == .sendLimit || seen.scenario == .sendQueue
    let (buffer, direction) = sends ? ("send", "to") : ("receive", "from")
    return
      "\(buffer) buffer of port \(seen.localPort) \(direction) \(seen.peer) port \(seen.remotePort)"
  }

  /// Whether the connection can use little more than it has, since the scale of
  /// its window was fixed under a smaller maximum.
  private func isBeyondScale(_ seen: Observation) -> Bool {
    seen.scenario == .receiveLimit && seen.window > 0 && seen.limit >= seen.window
  }

  private func reason(_ seen: Observation) -> String {
    let isSending = seen.scenario == .sendLimit
    let verb =
      isSending ? "of a congestion window of \(Words.bytes(seen.window)) in flight" : "read"
    // What is read at once may have been long in coming: no rate follows from it.
    let rate = isSending ? ", \(Words.rate(seen.inFlight, in: seen.rtt))" : ""
    let scale =
      isBeyondScale(seen)
      ? "; its window is scaled for no more than \(Words.bytes(seen.window)): new connections gain"
      : ""
    return "\(title(seen)) limited by \(Words.bytes(seen.limit)):"
      + " \(Words.bytes(seen.inFlight)) \(verb) in a round trip of"
      + " \(Words.microseconds(seen.rtt))\(rate)\(scale)"
  }
}
