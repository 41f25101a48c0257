public import Kernel
import State

/// How the effect of an adjustment shows on those that it was for. It is read
/// from the kernel's own figures when the adjustment is made and once more a
/// while later; in between nothing runs.
public enum Measure: Sendable, Equatable {
  /// By the TCP connections with a peer that exist at both times.
  case connections(peer: PeerAddress, Direction)
  /// By counters of the namespace that should stand still, such as
  /// `Udp.RcvbufErrors`; `before` is how many a second the event told of.
  case losses(Set<String>, before: Double)

  public enum Direction: Sendable, Equatable {
    case sending
    case receiving
  }

  /// What is read at one time.
  public enum Sample: Sendable, Equatable {
    case connections([TCPConnection])
    case losses(Int64)
  }

  /// Reads inside the namespace, on the thread that is there.
  func sample() throws(SystemCallFailure) -> Sample {
    switch self {
    case .connections(let peer, _):
      return .connections(try TCPConnection.all().filter { $0.peer == peer })
    case .losses(let names, _): return .losses(try NetworkCounters.sum(of: names))
    }
  }
}

/// What an experiment found.
struct Finding: Sendable, Equatable {
  var verdict: Record.Verdict
  /// In words and numbers.
  var effect: String
  /// The rate after by the rate before; nil where no rate was measured.
  var gain: Double?

  /// `seconds` lie between the two samples.
  init(_ measure: Measure, _ before: Measure.Sample, _ after: Measure.Sample, seconds: Double) {
    switch (measure, before, after) {
    case (.connections(_, let direction), .connections(let before), .connections(let after)):
      self.init(direction, before, after)
    case (.losses(_, let rate), .losses(let before), .losses(let after)):
      self.init(lossesBefore: rate, after: Double(after - before) / max(seconds, 0.001))
    default: self.init(.unclear, "nothing was measured")
    }
  }

  private init(_ verdict: Record.Verdict, _ effect: String, gain: Double? = nil) {
    self.verdict = verdict
    self.effect = effect
    self.gain = gain
  }

  // MARK: Connections

  /// The figures of several connections together.
  private struct Sum {
    /// Bytes a second.
    var rate: Int64 = 0
    /// Microseconds: the longest.
    var rtt: Int64 = 0
    var segments: Int64 = 0
    var retransmits: Int64 = 0

    init(_ connections: [TCPConnection], _ direction: Measure.Direction) {
      for one in connections {
        rate &+= direction == .sending ? one.deliveryRate : one.receiveRate
        rtt = max(rtt, one.rtt)
        segments &+= one.segments
        retransmits &+= one.retransmits
      }
    }

    var again: Double { segments > 0 ? Double(retransmits) / Double(segments) : 0 }
  }

  private init(
    _ direction: Measure.Direction, _ before: [TCPConnection], _ after: [TCPConnection]
  ) {
    let old = Dictionary(before.map { ($0.cookie, $0) }) { first, _ in first }
    // Only those that went on: an idle one says nothing.
    let busy = after.filter { now in old[now.cookie].map { now.bytes - $0.bytes > 1 << 16 } ?? false
    }
    guard !busy.isEmpty else {
      self.init(.unclear, "the connections had ended, or sent next to nothing")
      return
    }
    let then = Sum(busy.compactMap { old[$0.cookie] }, direction)
    var now = Sum(busy, direction)
    now.segments -= then.segments
    now.retransmits -= then.retransmits
    guard then.rate > 0, now.rate > 0 else {
      self.init(.unclear, "the kernel had no rate for the connections")
      return
    }
    let gain = Double(now.rate) / Double(then.rate)
    var effect = "\(Words.rate(then.rate, in: 1_000_000)) -> \(Words.rate(now.rate, in: 1_000_000))"
    if direction == .sending {
      effect += ", round trip \(Words.microseconds(then.rtt)) -> \(Words.microseconds(now.rtt))"
      effect += ", sent again \(Self.percent(then.again)) -> \(Self.percent(now.again))"
    }
    self.init(Self.isWorse(direction, then, now) ? .worse : .kept, effect, gain: gain)
  }

  /// A clear loss of rate together with what a buffer can do to a path: a queue
  /// that stands on it, or losses. A rate alone falls for many reasons.
  private static func isWorse(_ direction: Measure.Direction, _ then: Sum, _ now: Sum) -> Bool {
    guard direction == .sending else { return false }
    let slower = now.rate < then.rate - then.rate / 4
    let lossy = now.retransmits >= 20 && now.again > then.again + 0.02
    if slower, lossy || now.rtt > then.rtt + then.rtt / 2 { return true }
    // Rate by delay, the power of a connection: a third of it is left.
    let gain = Double(now.rate) / Double(then.rate)
    return now.rtt > then.rtt + 10_000 && Double(now.rtt) > 3 * gain * Double(then.rtt)
  }

  private static func percent(_ share: Double) -> String {
    let tenths = Int((share * 1000).rounded())
    return "\(tenths / 10).\(tenths % 10) %"
  }

  // MARK: Losses

  private init(lossesBefore before: Double, after: Double) {
    let words = { (rate: Double) in "\(Int(rate.rounded()))" }
    let worse = after > 2 * before && after > 10
    self.init(
      worse ? .worse : .kept, "losses a second \(words(before)) -> \(words(after))")
  }
}
