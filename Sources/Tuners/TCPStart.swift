public import Kernel
public import State

/// tcp-start: learns from finished connections which buffer sizes they came to,
/// and has new sockets begin with that: `tcp_wmem[1]` and `tcp_rmem[1]`.
///
/// The kernel grows a buffer step by step, each time that a connection runs
/// into it. The starting size is a limit and no memory, but a slow reader can
/// have as much waiting as it allows: so it is what most connections need, and
/// never more than TCP's memory has for every socket at once.
public struct TCPStart: Policy {
  public static let name = "tcp-start"

  public static let tunables = [TCPBuffer.sendMaximum, TCPBuffer.receiveMaximum]

  public static let signals = [
    Signal(
      "TCP connections that have ended",
      [
        Hook(
          .section(.tracepoint), "tp_btf/inet_sock_set_state", object: "tcp_start",
          program: "tcp_start_state"),
        Hook(
          .iterator(every: .seconds(10)), "iter/tcp every 10 s", object: "tcp_start",
          program: "tcp_start_poll"),
      ])
  ]

  /// `enum tcp_start_scenario` in bpf/tcp_start.bpf.c.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case finished = 1
  }

  /// `enum tcp_start_value` in bpf/tcp_start.bpf.c: which number is which.
  private enum Value: Int, CaseIterable {
    case port, count, sendGrown, receiveGrown, sendLow, sendHigh, receiveLow, receiveHigh
    case sendSize, sendMaximum, receiveSize, receiveMaximum, sockets, memory, memoryLow
  }

  public static let mirrors: [String: [String: Int64]] = [
    "tcp_start_scenario": ["TCP_START_FINISHED": Scenario.finished.rawValue],
    "tcp_start_value": Dictionary(
      uniqueKeysWithValues: zip(
        [
          "PORT", "COUNT", "SEND_GROWN", "RECEIVE_GROWN", "SEND_LOW", "SEND_HIGH", "RECEIVE_LOW",
          "RECEIVE_HIGH", "SEND_SIZE", "SEND_MAXIMUM", "RECEIVE_SIZE", "RECEIVE_MAXIMUM",
          "SOCKETS", "MEMORY", "MEMORY_LOW",
        ].map { "TCP_START_" + $0 }, Value.allCases.map { Int64($0.rawValue) })),
  ]

  /// One direction of the connections of a service.
  public struct Side: Sendable, Equatable {
    /// Connections that ended with more than the starting size.
    public var grown: Int64
    /// How many needed each of the sizes in `TCPStart.sizes`.
    public var counts: [Double]
    /// Bytes: the starting size and the maximum in force.
    public var size: Int64
    public var maximum: Int64
  }

  /// Dozens of connections of one service that have ended.
  public struct Observation: Sendable, Equatable {
    /// The local port, or for outgoing connections the remote one.
    public var port: Int64
    public var isOutgoing: Bool
    public var count: Int64
    public var send: Side
    public var receive: Side
    /// TCP sockets on the machine, about; the pages that they hold, and
    /// `tcp_mem[0]`.
    public var sockets: Int64
    public var memory: Int64
    public var memoryLow: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard Scenario(rawValue: Int64(event.scenario)) != nil,
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    func counts(_ low: Value, _ high: Value) -> [Double] {
      withUnsafeBytes(of: (value(low), value(high))) { $0.map(Double.init) }
    }
    return Observation(
      port: value(.port) & 0xffff, isOutgoing: value(.port) >> 16 != 0, count: value(.count),
      send: Side(
        grown: value(.sendGrown), counts: counts(.sendLow, .sendHigh), size: value(.sendSize),
        maximum: value(.sendMaximum)),
      receive: Side(
        grown: value(.receiveGrown), counts: counts(.receiveLow, .receiveHigh),
        size: value(.receiveSize), maximum: value(.receiveMaximum)),
      sockets: value(.sockets), memory: value(.memory), memoryLow: value(.memoryLow),
      time: event.time)
  }

  /// Bytes: the sizes that connections are counted by; see `index_of` in
  /// bpf/tcp_start.bpf.c.
  static let sizes: [Int64] = (0..<16).map { $0 & 1 == 0 ? 1 << (15 + $0 / 2) : 3 << (14 + $0 / 2) }

  // MARK: State

  private struct Service: Hashable {
    let port: Int64
    let isOutgoing: Bool
  }

  /// What the connections of a service needed: older ones count less and less.
  private struct Needs {
    var send = [Double](repeating: 0, count: sizes.count)
    var receive = [Double](repeating: 0, count: sizes.count)
    var lastSeen: UInt64 = 0
  }

  /// What is known of one of the two tunables.
  private struct Start {
    /// Bytes before the first change: it does not go below.
    var original: Int64?
    /// Since when half of it, or less, would have done.
    var ampleSince: UInt64?
  }

  private let learningRate: LearningRate
  private var services: [Service: Needs] = [:]
  private var send = Start()
  private var receive = Start()
  /// How many services it remembers.
  var knownServices: Int { services.count }
  static let mostServices = 64
  /// The share of connections that shall need no growth.
  static let share = 0.95
  /// Connections that have to be known, with the halves that older ones count.
  static let enough = 24.0
  /// Nanoseconds for which less must have been enough.
  static let patience: UInt64 = 300_000_000_000
  /// Bytes: what needs more than this is left to grow.
  static let most: Int64 = 4 << 20

  public init(learningRate: LearningRate) { self.learningRate = learningRate }

  // MARK: Deciding

  public mutating func decide(_ seen: Observation) -> Decision {
    guard seen.send.counts.count == Self.sizes.count, seen.receive.counts.count == Self.sizes.count
    else { return .leave("no sizes are known") }
    remember(seen)
    guard seen.memory < seen.memoryLow else { return .leave("TCP's memory is short") }
    var adjustments: [Adjustment] = []
    if let one = adjust(
      &send, TCPBuffer.sendMaximum, seen.send, services.values.map(\.send), seen)
    {
      adjustments.append(one)
    }
    if let one = adjust(
      &receive, TCPBuffer.receiveMaximum, seen.receive, services.values.map(\.receive), seen)
    {
      adjustments.append(one)
    }
    guard adjustments.isEmpty else { return .adjust(adjustments) }
    return .leave(
      "\(title(seen)): \(seen.send.grown) send and \(seen.receive.grown) receive buffers of"
        + " \(seen.count) connections grew from \(Words.bytes(seen.send.size)) and"
        + " \(Words.bytes(seen.receive.size)), which is what most connections here need")
  }

  private mutating func remember(_ seen: Observation) {
    let service = Service(port: seen.port, isOutgoing: seen.isOutgoing)
    if services.count >= Self.mostServices, services[service] == nil,
      let oldest = services.min(by: { $0.value.lastSeen < $1.value.lastSeen })
    {
      services[oldest.key] = nil
    }
    var needs = services[service] ?? Needs()
    for index in Self.sizes.indices {
      needs.send[index] = needs.send[index] / 2 + seen.send.counts[index]
      needs.receive[index] = needs.receive[index] / 2 + seen.receive.counts[index]
    }
    needs.lastSeen = seen.time
    services[service] = needs
  }

  private func adjust(
    _ start: inout Start, _ tunable: Tunable, _ side: Side, _ needs: [[Double]],
    _ seen: Observation
  ) -> Adjustment? {
    guard side.size > 0, let need = Self.size(for: needs) else { return nil }
    let original = start.original ?? side.size
    // A quarter of what TCP may hold before it has to save, for every socket.
    let (bytes, overflow) = seen.memoryLow.multipliedReportingOverflow(by: Memory.pageSize)
    let fair = (overflow ? Int64.max : bytes) / 4 / max(seen.sockets, 64)
    let target = max(original, min(need, side.maximum / 2, fair, Self.most))
    let name = tunable == TCPBuffer.sendMaximum ? "send" : "receive"
    if target > side.size + side.size / 4 {
      start.ampleSince = nil
      let growth = learningRate.growth(most: Double(target) / Double(side.size))
      let wanted = min(target, Int64(Double(side.size) * growth)) & ~4095
      return Adjustment(
        tunable, from: .initial(side.size), to: .initial(wanted),
        scenario: "need to increase starting size of TCP \(name) buffers",
        reason: "\(title(seen)): \(side.grown) of \(seen.count) connections grew their \(name)"
          + " buffer; nineteen of twenty connections here need no more than this. It counts for sockets"
          + " opened from now on, and for a service when it opens its port again")
    }
    guard target <= side.size / 2 else {
      start.ampleSince = nil
      return nil
    }
    let since = start.ampleSince ?? seen.time
    start.ampleSince = since
    guard seen.time > since, seen.time - since > Self.patience else { return nil }
    start.ampleSince = nil
    return Adjustment(
      tunable, from: .initial(side.size), to: .initial(target),
      scenario: "starting size of TCP \(name) buffers is ample",
      reason: "nineteen of twenty connections here have needed \(Words.bytes(need)) or less for"
        + " \(Self.patience / 60_000_000_000) min")
  }

  /// Bytes that are enough for most of the connections of all services; nil
  /// when too few are known.
  private static func size(for needs: [[Double]]) -> Int64? {
    let counts = sizes.indices.map { index in needs.reduce(0) { $0 + $1[index] } }
    let all = counts.reduce(0, +)
    guard all >= enough else { return nil }
    var sum = 0.0
    for (size, count) in zip(sizes, counts) {
      sum += count
      if sum >= all * share { return size }
    }
    return sizes.last
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    guard case .triple(_, let initial, _) = holding.original else { return }
    if holding.tunable == TCPBuffer.sendMaximum {
      send.original = initial
    } else {
      receive.original = initial
    }
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    guard case .applied = outcome else { return }
    let old = adjustment.assumed.number
    if adjustment.tunable == TCPBuffer.sendMaximum {
      send.original = send.original ?? old
    } else {
      receive.original = receive.original ?? old
    }
  }

  // MARK: Words

  private func title(_ seen: Observation) -> String {
    seen.isOutgoing ? "connections to port \(seen.port)" : "port \(seen.port)"
  }
}
