import Kernel
public import State

/// tcp-buffer: takes back what only makes a queue.
///
/// Buffers beyond what a path carries in a round trip stand in a queue in front
/// of its bottleneck, where everybody waits behind them. The maximum comes down
/// to what the connections of the namespace need, when a queue has stood for a
/// while; and up again by the same evidence as ever, when there is none.
extension TCPBuffer {
  static let queueSignals = [
    Signal(
      "TCP send queue on the path",
      [
        Hook(
          .cgroup(.sockOps), "sock_ops/RTT_CB", object: "tcp_latency",
          program: "tcp_latency_sock_ops"),
        Hook(
          .iterator(every: .seconds(5)), "iter/tcp every 5 s", object: "tcp_latency",
          program: "tcp_latency_poll_send"),
      ]),
    Signal(
      "TCP receive queue on the path",
      [
        Hook(
          .section(.tracepoint), "tp_btf/tcp_rcv_space_adjust", object: "tcp_latency",
          program: "tcp_latency_rcv_space_adjust"),
        Hook(
          .iterator(every: .seconds(5)), "iter/tcp every 5 s", object: "tcp_latency",
          program: "tcp_latency_poll_receive"),
      ]),
  ]

  /// What is known of queues in one direction.
  struct Queue {
    /// The maximum before it came down, and since.
    private(set) var lowered: (from: Int64, to: Int64)?
    /// What was seen when it did.
    private(set) var reason: Observation?
    /// The queue that stands now: since when, how often seen, and when last.
    private var since: UInt64 = 0
    private var count = 0
    private var last: UInt64 = 0
    /// Not lowered before that time; each change of direction doubles the wait.
    private(set) var notBefore: UInt64 = 0
    private(set) var hold = Self.shortestHold
    private var lastReversal: UInt64 = 0
    /// The last change was downwards.
    private var isDown = false

    static let shortestHold: UInt64 = 30_000_000_000
    static let longestHold: UInt64 = 3_600_000_000_000
    /// Nanoseconds that a queue has to stand; longer than any slow start.
    private static let lasting: UInt64 = 2_000_000_000
    /// Between two events of the same queue; more than the longest window in
    /// which the kernel side folds them.
    private static let gap: UInt64 = 12_000_000_000

    /// Whether a queue has stood for long enough, with this event.
    mutating func lasts(_ seen: Observation) -> Bool {
      let time = seen.time
      if count == 0 || time < last || time - last > Self.gap {
        since = time
        count = 0
      }
      count += 1
      last = time
      return count >= 4 && time - since >= Self.lasting
    }

    /// Why the maximum stays down though a connection is held back by it.
    func keepsDown(_ seen: Observation, bestRTT: Int64) -> String? {
      guard let lowered, seen.limit < lowered.from else { return nil }
      var best = bestRTT
      if seen.rttMin > 0 { best = min(best, seen.rttMin) }
      if let reason, seen.peer == reason.peer {
        best = min(best, reason.rttMin)
        let now = Double(seen.inFlight) * Double(best) / Double(max(seen.rtt, 1))
        if now < Double(reason.carried) * 1.1 {
          return "the path carries no more than before: \(Words.rate(seen.inFlight, in: seen.rtt))"
        }
      }
      guard seen.rtt / 115 > best / 100 else { return nil }
      return "more would only stand in a queue: the round trip is \(Words.microseconds(seen.rtt))"
        + " against \(Words.microseconds(best)) at best"
    }

    /// What a daemon before this one had lowered.
    mutating func recall(from old: Int64, to new: Int64) {
      lowered = (old, new)
      isDown = true
    }

    mutating func learn(_ old: Int64, _ new: Int64, _ time: UInt64, because seen: Observation?) {
      if new < old {
        lowered = (lowered?.from ?? old, new)
        reason = seen
        count = 0
        isDown = true
        return
      }
      guard let lowered, new > lowered.to else { return }
      defer { if new >= lowered.from { self.lowered = nil } }
      // A second step up is no change of direction.
      guard isDown else { return }
      isDown = false
      if time &- lastReversal > Self.longestHold { hold = Self.shortestHold }
      lastReversal = time
      notBefore = time &+ hold
      hold = min(hold * 2, Self.longestHold)
    }
  }

  /// No maximum goes below this: bytes.
  private static let leastMaximum: Int64 = 65536

  /// A queue stands on a path.
  mutating func shorten(_ seen: Observation) -> Decision {
    let tunable = seen.scenario == .sendQueue ? Self.sendMaximum : Self.receiveMaximum
    var queue = queues[tunable] ?? Queue()
    defer { queues[tunable] = queue }
    let words =
      "\(title(seen)) has \(Words.bytes(seen.inFlight)) in flight and a round trip of"
      + " \(Words.microseconds(seen.rtt)) against \(Words.microseconds(seen.rttMin))"
    if queue.lowered != nil, seen.size > seen.limit + seen.limit / 8 {
      return .leave("\(words), but its buffer is older than the limit")
    }
    guard queue.lasts(seen) else { return .leave("\(words), but not for long") }
    if let lowered = queue.lowered, lowered.to == seen.limit, let reason = queue.reason,
      reason.peer == seen.peer, rate(seen) < rate(reason) / 5 * 4
    {
      return .adjust([
        Adjustment(
          tunable, from: seen.limit, to: lowered.from, scenario: seen.scenario.name,
          reason: "\(words): smaller buffers brought less and the queue has stayed;"
            + " it is that of others")
      ])
    }
    guard seen.time >= queue.notBefore else {
      return .leave("\(words), but the maximum has come down and up again a short while ago")
    }
    let wanted = (max(seen.need, Self.leastMaximum) + 4095) & ~4095
    guard wanted <= seen.limit / 4 * 3 else {
      return .leave("\(words), but some path needs \(Words.bytes(seen.need))")
    }
    pending = seen
    let why = "\(words): what is beyond \(Words.bytes(wanted)) only stands in a queue"
    var adjustments = [
      Adjustment(
        tunable, from: seen.limit, to: wanted, scenario: seen.scenario.name, reason: why)
    ]
    // The kernel starts with the second number, whatever the third.
    if seen.initial > wanted {
      adjustments.append(
        Adjustment(
          tunable, from: .initial(seen.initial), to: .initial(wanted),
          scenario: seen.scenario.name, reason: why))
    }
    return .adjust(adjustments)
  }

  /// Bytes in a second.
  private func rate(_ seen: Observation) -> Int64 {
    seen.inFlight.multipliedReportingOverflow(by: 1_000_000).partialValue / max(seen.rtt, 1)
  }

  public mutating func recall(_ holding: Holding, at time: UInt64) {
    guard let old = holding.original.maximum, let new = holding.written.maximum, new < old,
      holding.tunable == Self.sendMaximum || holding.tunable == Self.receiveMaximum
    else { return }
    queues[holding.tunable, default: Queue()].recall(from: old, to: new)
  }

  public mutating func learn(_ adjustment: Adjustment, _ outcome: Outcome) {
    guard case .maximum(let old) = adjustment.assumed, case .maximum(let new) = adjustment.wanted,
      case .applied(_, _, let time) = outcome
    else { return }
    queues[adjustment.tunable, default: Queue()].learn(old, new, time, because: pending)
  }
}
