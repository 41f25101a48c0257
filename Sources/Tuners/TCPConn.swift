public import Kernel

/// tcp-conn: the congestion control that does best on each path.
///
/// Its BPF programs (bpf/tcp_conn.bpf.c) measure connections and choose, on the
/// socket itself; nothing of that waits for user space. What is left to do here
/// is to say which algorithms are allowed, to have one allowed that a path needs,
/// and to log what was done. The kernel has one such list for all namespaces.
public struct TCPConn: Policy {
  public static let name = "tcp-conn"

  public static let allowed = Tunable(
    "net.ipv4.tcp_allowed_congestion_control", .words, .global, bounds: 0...0,
    means: .congestionControls)
  /// Watched, never written: whoever sets it wants that algorithm.
  public static let congestionControl = Tunable(
    "net.ipv4.tcp_congestion_control", .text, .perNamespace, bounds: 0...0)
  /// The least time-out before a segment is sent again, in microseconds, since
  /// Linux 6.11: watched, never written.
  public static let leastTimeout = Tunable(
    "net.ipv4.tcp_rto_min_us", .text, .perNamespace, bounds: 0...0)
  public static let tunables = [allowed, congestionControl, leastTimeout]
  public static let scope = Tunable.Scope.global

  public static let signals = [
    Signal(
      "TCP losses and round trips by path",
      [
        Hook(
          .cgroup(.sockOps), "sock_ops", object: "tcp_conn", program: "tcp_conn_sock_ops")
      ])
  ]
  public static let adoption: Signal? = Signal(
    "TCP paths of connections older than the daemon", onlyWith: .sockOps,
    [
      Hook(
        .iterator(every: .zero), "iter/tcp", object: "tcp_conn_iter", program: "tcp_conn_adopt",
        since: KernelVersion(6, 12), isIdleBefore: true),
      Hook(
        .iterator(every: .seconds(5)), "iter/tcp every 5 s", object: "tcp_conn_iter",
        program: "tcp_conn_poll", since: KernelVersion(6, 1)),
      Hook(.onAction, "new connections only"),
    ])

  /// `enum tcp_conn_scenario` in bpf/tcp_conn.h.
  public enum Scenario: Int64, CaseIterable, Sendable {
    case need = 1
    case trial, chosen, kept, sooner, later

    var name: String {
      switch self {
      case .need: "need a congestion control that is not allowed"
      case .trial: "need to try another congestion control"
      case .chosen: "need another congestion control"
      case .kept: "need no other congestion control"
      case .sooner: "need to send again sooner"
      case .later: "need to wait before sending again"
      }
    }
  }

  /// `enum tcp_conn_arm`.
  public enum Algorithm: Int64, CaseIterable, Sendable {
    /// The default of the connection, where it is none of the others.
    case other, bbr, cubic, htcp, dctcp

    public var name: String { self == .other ? "the default" : "\(self)" }
    var bit: UInt32 { 1 << UInt32(rawValue) }
  }

  /// `enum tcp_conn_reason`: what is wrong on a path.
  public enum Reason: Int64, CaseIterable, Sendable {
    case none, loss, queue, marks, clean, worse

    public var words: String {
      switch self {
      case .none: "nothing is wrong"
      case .loss: "segments are lost without a queue"
      case .queue: "a standing queue makes the round trip long"
      case .marks: "the path marks packets"
      case .clean: "the path is clean by now"
      case .worse: "it does far worse than when it was chosen"
      }
    }
  }

  /// `enum tcp_conn_value`: which number is which.
  private enum Value: Int, CaseIterable {
    case from, to, reason, peerHigh, peerLow, prefix, rttMin
    case fromRate, fromRTT, fromLoss, toRate, toRTT, toLoss
    case otherName, otherNameRest, inVain
  }

  public static let mirrors: [String: [String: Int64]] = [
    "tcp_conn_scenario": mirror(
      "TCP_CONN_", ["NEED", "TRIAL", "CHOSEN", "KEPT", "SOONER", "LATER"], from: 1),
    "tcp_conn_arm": mirror("ARM_", ["OTHER", "BBR", "CUBIC", "HTCP", "DCTCP", "COUNT"]),
    "tcp_conn_reason": mirror("REASON_", ["NONE", "LOSS", "QUEUE", "MARKS", "CLEAN", "WORSE"]),
    "tcp_conn_value": mirror(
      "TCP_CONN_",
      [
        "FROM", "TO", "REASON", "PEER_HIGH", "PEER_LOW", "PREFIX", "RTT_MIN", "FROM_RATE",
        "FROM_RTT", "FROM_LOSS", "TO_RATE", "TO_RTT", "TO_LOSS", "OTHER_NAME",
        "OTHER_NAME_REST", "IN_VAIN",
      ]),
  ]

  private static func mirror(
    _ prefix: String, _ names: [String], from first: Int64 = 0
  ) -> [String: Int64] {
    Dictionary(uniqueKeysWithValues: zip(names.map { prefix + $0 }, first...))
  }

  /// What an algorithm has done on a path.
  public struct Record: Sendable, Equatable {
    /// kbit/s that the peer has acknowledged, while the network was the limit.
    public var rate: Int64
    /// Microseconds.
    public var rtt: Int64
    /// Of a million segments, how many were sent again.
    public var loss: Int64

    var words: String {
      "\(Words.rate(rate * 125, in: 1_000_000)), round trip \(Words.microseconds(rtt)),"
        + " \(Words.percent(ofMillion: loss)) lost"
    }
  }

  public enum Observation: Sendable, Equatable {
    /// What the list of allowed algorithms says when the daemon starts.
    case allowed([String])
    case path(PathEvent)
  }

  /// Something on a path.
  public struct PathEvent: Sendable, Equatable {
    public var scenario: Scenario
    public var from: Algorithm
    public var to: Algorithm
    public var reason: Reason
    public var peer: PeerAddress
    public var prefix: Int64
    public var rttMin: Int64
    public var old: Record
    public var new: Record
    /// Of the default, where it is `.other`.
    public var otherName = ""
    /// Of a million times that something was sent again, how often it had arrived.
    public var inVain: Int64 = 0

    func name(_ algorithm: Algorithm) -> String {
      algorithm == .other && !otherName.isEmpty ? otherName : algorithm.name
    }
  }

  public static func observe(_ event: KernelEvent, freeMemory: Int64) -> Observation? {
    guard let scenario = Scenario(rawValue: Int64(event.scenario)),
      case .values(let values) = event.payload, values.count >= Value.allCases.count
    else { return nil }
    func value(_ which: Value) -> Int64 { values[which.rawValue] }
    guard let from = Algorithm(rawValue: value(.from)), let to = Algorithm(rawValue: value(.to)),
      let reason = Reason(rawValue: value(.reason))
    else { return nil }
    let event = PathEvent(
      scenario: scenario, from: from, to: to, reason: reason,
      peer: PeerAddress(high: value(.peerHigh), low: value(.peerLow)), prefix: value(.prefix),
      rttMin: value(.rttMin),
      old: Record(rate: value(.fromRate), rtt: value(.fromRTT), loss: value(.fromLoss)),
      new: Record(rate: value(.toRate), rtt: value(.toRTT), loss: value(.toLoss)),
      otherName: withUnsafeBytes(of: (value(.otherName), value(.otherNameRest))) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }, inVain: value(.inVain))
    return .path(event)
  }

  public static let looks = true

  public static func look() throws -> Observation {
    .allowed(try Sysctl.read(allowed).description.split(separator: " ").map(String.init))
  }

  // MARK: State

  /// By bit: what the kernel allows, and what it does not have.
  private var usable: UInt32 = 0
  private var absent: UInt32 = 0

  /// `struct tcp_conn_algorithms`.
  public static let actsByItself = true
  public static let tableName: String? = "tcp_conn_usable"
  public var table: [UInt32] { [usable, absent] }

  public init(learningRate: LearningRate) {}

  // MARK: Deciding

  public mutating func decide(_ observation: Observation) -> Decision {
    switch observation {
    case .allowed(let names):
      for algorithm in Algorithm.allCases where names.contains(algorithm.name) {
        usable |= algorithm.bit
      }
      return .leave("allowed: \(names.joined(separator: " "))")
    case .path(let event): return decide(event)
    }
  }

  private func decide(_ seen: PathEvent) -> Decision {
    let path = Self.path(seen.peer, prefix: seen.prefix)
    let why = "\(seen.reason.words): \(seen.old.words) with \(seen.name(seen.from))"
    switch seen.scenario {
    case .need:
      guard seen.to != .other else { return .leave("the default is allowed") }
      return .adjust([
        Adjustment(
          Self.allowed, from: .word(seen.to.name, isThere: false),
          to: .word(seen.to.name, isThere: true), scenario: seen.scenario.name,
          reason: "\(seen.name(seen.to)) may help to \(path): \(why)")
      ])
    case .trial:
      return .note("to \(path): trying \(seen.name(seen.to)): \(why)", about: "trial")
    case .chosen:
      return .note(
        "congestion control to \(path): \(seen.name(seen.from)) -> \(seen.name(seen.to)): \(why);"
          + " \(seen.new.words) with \(seen.name(seen.to))", about: "chosen")
    case .kept:
      return .note(
        "congestion control to \(path) stays \(seen.name(seen.from)): \(seen.old.words);"
          + " \(seen.new.words) with \(seen.name(seen.to))", about: "kept")
    case .sooner:
      return .note(
        "time-outs to \(path): 50 ms beyond the round trip at the least, not 200 ms:"
          + " \(Words.percent(ofMillion: seen.old.loss)) lost, round trip"
          + " \(Words.microseconds(seen.old.rtt))", about: "sooner")
    case .later:
      return .note(
        "time-outs to \(path): 200 ms again for new connections: in"
          + " \(Words.percent(ofMillion: seen.inVain)) of cases what was sent again had arrived",
        about: "later")
    }
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    guard case .word(let word, _) = adjustment.wanted,
      let algorithm = Algorithm.allCases.first(where: { $0.name == word })
    else { return }
    switch outcome {
    // In a dry run nothing comes of it, but what would be tried is told.
    case .applied, .advised: usable |= algorithm.bit
    case .refused(.stale(let current)) where adjustment.wanted.holds(in: current):
      usable |= algorithm.bit
    case .refused(.failed), .refused(.unavailable): absent |= algorithm.bit
    case .refused: break
    }
  }

  /// `10.1.2.3`, `10.1.2.0/24`, `2001:db8::/48`. `prefix` counts the bits of an
  /// IPv4 address from 96 on.
  static func path(_ peer: PeerAddress, prefix: Int64) -> String {
    guard prefix < 128 else { return "\(peer)" }
    return "\(peer)/\(peer.isIPv4 ? prefix - 96 : prefix)"
  }
}
