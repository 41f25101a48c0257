public import Kernel
public import State

/// socket-buffer: lets applications have the buffers that they ask for with
/// `SO_SNDBUF` and `SO_RCVBUF`, within what the memory bears, and names those
/// that lock a buffer which is too small for their path.
///
/// A request may come from anyone, and the limit is the same for everyone: so
/// what is beyond a small part of the memory is not followed at all.
public struct SocketBuffer: Policy {
  public static let name = "socket-buffer"
  public static let scope = Tunable.Scope.global

  public static let sendMaximum = Tunable(
    "net.core.wmem_max", .scalar, .global, bounds: 4608...Int64(Int32.max))
  public static let receiveMaximum = Tunable(
    "net.core.rmem_max", .scalar, .global, bounds: 2304...Int64(Int32.max))
  public static let tunables = [sendMaximum, receiveMaximum]

  public static let actsByItself = true

  public static let signals = [
    Signal(
      "socket buffers asked for",
      [
        Hook(
          .cgroup(.cgroup), "cgroup/setsockopt", object: "socket_buffer",
          program: "socket_buffer_request",
          constants: ["wmem_max": sendMaximum, "rmem_max": receiveMaximum])
      ]),
    Signal(
      "locked socket buffers that are too small",
      [
        Hook(
          .section(.tracepoint), "tp_btf/inet_sock_set_state", object: "socket_buffer",
          program: "socket_buffer_state"),
        Hook(
          .iterator(every: .seconds(10)), "iter/tcp every 10 s", object: "socket_buffer",
          program: "socket_buffer_poll"),
      ]),
  ]

  public static let request: Signal? = Signal(
    "socket buffers, on request",
    [
      Hook(
        .request, "raw_tp, run by hand", object: "socket_buffer", program: "socket_buffer_report")
    ])

  /// `enum socket_buffer_scenario` in bpf/socket_buffer.bpf.c.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case sendClamped = 1
    case receiveClamped = 2
    case sendLocked = 3
    case receiveLocked = 4
    case sendReport = 5
    case receiveReport = 6

    var isSend: Bool { self == .sendClamped || self == .sendLocked || self == .sendReport }
    var option: String { isSend ? "SO_SNDBUF" : "SO_RCVBUF" }
    var tunable: Tunable { isSend ? SocketBuffer.sendMaximum : SocketBuffer.receiveMaximum }
  }

  /// `enum socket_buffer_value` in bpf/socket_buffer.bpf.c: which number is which.
  private enum Value: Int, CaseIterable {
    case size, limit, local, remote, process, commLow, commHigh, rtt, percent, bytes
  }

  public static let mirrors: [String: [String: Int64]] = [
    "socket_buffer_scenario": [
      "SOCKET_BUFFER_SEND_CLAMPED": Scenario.sendClamped.rawValue,
      "SOCKET_BUFFER_RECEIVE_CLAMPED": Scenario.receiveClamped.rawValue,
      "SOCKET_BUFFER_SEND_LOCKED": Scenario.sendLocked.rawValue,
      "SOCKET_BUFFER_RECEIVE_LOCKED": Scenario.receiveLocked.rawValue,
      "SOCKET_BUFFER_SEND_REPORT": Scenario.sendReport.rawValue,
      "SOCKET_BUFFER_RECEIVE_REPORT": Scenario.receiveReport.rawValue,
    ],
    "socket_buffer_value": Dictionary(
      uniqueKeysWithValues: zip(
        [
          "SIZE", "LIMIT", "LOCAL", "REMOTE", "PROCESS", "COMM_LOW", "COMM_HIGH", "RTT", "PERCENT",
          "BYTES",
        ].map { "SOCKET_BUFFER_" + $0 }, Value.allCases.map { Int64($0.rawValue) })),
  ]

  public struct Observation: Sendable, Equatable {
    public var scenario: Scenario
    /// Bytes: asked for, or locked; in a report the most that was asked for.
    public var size: Int64
    /// Bytes: the tunable when the daemon started.
    public var limit: Int64
    /// 0 where not known.
    public var localPort: Int64
    public var remotePort: Int64
    public var process: Int64
    public var command: String
    /// Microseconds.
    public var rtt: Int64
    /// Of its busy time in which the send buffer was the limit.
    public var percent: Int64
    /// What the connection carried.
    public var bytes: Int64
    /// Bytes that are free on the machine.
    public var freeMemory: Int64
    /// Nanoseconds of the kernel's monotonic clock.
    public var time: UInt64

    /// The service's: nothing tells who called whom, but it has the lower port.
    var service: Int64 {
      localPort == 0 || remotePort == 0
        ? max(localPort, remotePort) : min(localPort, remotePort)
    }
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    return Observation(
      scenario: scenario, size: value(.size), limit: value(.limit), localPort: value(.local),
      remotePort: value(.remote), process: value(.process),
      command: Words.text(value(.commLow), value(.commHigh)), rtt: value(.rtt),
      percent: value(.percent), bytes: value(.bytes), freeMemory: freeMemory, time: event.time)
  }

  // MARK: State

  /// What is known of one of the two tunables.
  struct Maximum {
    var current: Int64
    /// Before the first change.
    var original: Int64?
  }

  /// A service that locks a buffer which is too small for a path of its.
  struct Finding {
    var smallest: Int64
    var times = 0
  }

  private let learningRate: LearningRate
  private let check: Duration
  private var maxima: [Tunable: Maximum] = [:]
  private var wrong: [Int64: [Bool: Finding]] = [:]
  static let mostPorts = 64
  /// Bytes: no application gets more, however much memory there is.
  static let most: Int64 = 64 << 20
  /// Ports below this are worth a line in the summary.
  static let ephemeral: Int64 = 32768

  public init(learningRate: LearningRate) {
    self.init(learningRate: learningRate, check: .seconds(3600))
  }

  /// `check`: after how long without a request for it a raised maximum comes
  /// down.
  public init(learningRate: LearningRate, check: Duration) {
    self.learningRate = learningRate
    self.check = check
  }

  public var recheck: Duration? {
    maxima.values.contains { $0.original != nil } ? check : nil
  }

  public var findings: [String] {
    wrong.sorted { $0.key < $1.key }.flatMap { port, sides in
      sides.sorted { $0.key && !$1.key }.map { isSend, finding in
        "port \(port) sizes its buffers wrongly: \(isSend ? "SO_SNDBUF" : "SO_RCVBUF") of"
          + " \(Words.bytes(finding.smallest)) was too small for its path"
          + " (\(finding.times == 1 ? "once" : "\(finding.times) times"))"
      }
    }
  }

  // MARK: Deciding

  public mutating func decide(_ seen: Observation) -> Decision {
    switch seen.scenario {
    case .sendClamped, .receiveClamped: allow(seen)
    case .sendLocked, .receiveLocked: advise(seen)
    case .sendReport, .receiveReport: shrink(seen)
    }
  }

  private mutating func allow(_ seen: Observation) -> Decision {
    let tunable = seen.scenario.tunable
    let known = maxima[tunable] ?? Maximum(current: seen.limit)
    maxima[tunable] = known
    guard seen.size > known.current else {
      return .leave("\(title(seen)), which is allowed by now")
    }
    // Many sockets may have it: a hundred of them take half the memory.
    let ceiling = min(Self.most, seen.freeMemory / 256)
    guard seen.size <= ceiling else {
      return .hold(
        "\(title(seen)); \(tunable.name) stays at \(Words.bytes(known.current)), since the memory"
          + " bears no more than \(Words.bytes(ceiling)) for each",
        about: "\(tunable.name) \(seen.process)")
    }
    let growth = learningRate.growth(most: Double(seen.size) / Double(max(known.current, 1)))
    let wanted = min((seen.size + 4095) & ~4095, Int64(Double(known.current) * growth) + 4095)
    return .adjust([
      Adjustment(
        tunable, from: known.current, to: min(wanted, ceiling),
        scenario: "need to increase maximum of \(seen.scenario.option)",
        reason: "\(title(seen)) and was given \(Words.bytes(known.current)); it has to ask again,"
          + " most often by a new connection")
    ])
  }

  private mutating func advise(_ seen: Observation) -> Decision {
    let isSend = seen.scenario.isSend
    if seen.service < Self.ephemeral, wrong.count < Self.mostPorts || wrong[seen.service] != nil {
      var finding = wrong[seen.service]?[isSend] ?? Finding(smallest: seen.size)
      finding.smallest = min(finding.smallest, seen.size)
      finding.times += 1
      wrong[seen.service, default: [:]][isSend] = finding
    }
    let evidence =
      isSend
      ? "was the limit for \(seen.percent) % of the time" : "was full in every round trip"
    return .hold(
      "port \(seen.service): a \(isSend ? "send" : "receive") buffer locked at"
        + " \(Words.bytes(seen.size)) by \(seen.scenario.option) \(evidence), with"
        + " \(Words.microseconds(seen.rtt)) to port \(seen.remotePort); without"
        + " \(seen.scenario.option) the kernel sizes it by the path"
        + " (or --override-socket-buffers \(seen.service))",
      about: "\(seen.scenario) \(seen.service)")
  }

  private mutating func shrink(_ seen: Observation) -> Decision {
    let tunable = seen.scenario.tunable
    guard let known = maxima[tunable], let original = known.original else {
      return .leave("\(tunable.name) is not raised")
    }
    let wanted = max(original, min((seen.size + 4095) & ~4095, known.current))
    guard wanted < known.current else { return .leave("\(tunable.name) is needed") }
    return .adjust([
      Adjustment(
        tunable, from: known.current, to: wanted,
        scenario: "maximum of \(seen.scenario.option) is ample",
        reason: seen.size == 0
          ? "nobody has asked for more lately"
          : "nobody has asked for more than \(Words.bytes(seen.size)) lately")
    ])
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    guard let original = holding.original.maximum, let current = holding.written.maximum else {
      return
    }
    maxima[holding.tunable] = Maximum(current: current, original: original)
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    guard var known = maxima[adjustment.tunable] else { return }
    switch outcome {
    case .applied(let old, let new, _):
      known.original = known.original ?? old.maximum
      known.current = new.maximum ?? known.current
      if let original = known.original, known.current <= original { known.original = nil }
    case .refused(.stale(let current)): known.current = current.maximum ?? known.current
    default: break
    }
    maxima[adjustment.tunable] = known
  }

  // MARK: Words

  private func title(_ seen: Observation) -> String {
    let port = seen.service == 0 ? "" : " for port \(seen.service)"
    return "pid \(seen.process) (\(seen.command)) asked for \(Words.bytes(seen.size))"
      + " by \(seen.scenario.option)\(port)"
  }
}
