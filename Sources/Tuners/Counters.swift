public import Kernel
import Synchronization

/// What became of adjustments since the start, in numbers.
public final class Counters: Sendable {
  /// What one tuner has done, in all namespaces.
  public struct OfTuner: Sendable {
    /// By tunable, where one that every device has counts as one.
    public internal(set) var changes: [String: UInt64] = [:]
    public internal(set) var advice: [String: UInt64] = [:]
    /// By the kind of refusal.
    public internal(set) var refusals: [String: UInt64] = [:]
    /// From the event in the kernel to its tunable written.
    public internal(set) var latency = Histogram()
  }

  /// How many took how long.
  public struct Histogram: Sendable {
    /// Upper limits of the buckets, in microseconds; there is one more above them.
    public static let limits: [UInt64] = [
      50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000, 1_000_000,
    ]
    public private(set) var counts = [UInt64](repeating: 0, count: limits.count + 1)
    /// Nanoseconds, of all together.
    public private(set) var sum: UInt64 = 0

    public init() {}

    mutating func add(nanoseconds: UInt64) {
      let bucket = Self.limits.firstIndex { nanoseconds <= $0 * 1000 } ?? Self.limits.count
      counts[bucket] += 1
      sum &+= nanoseconds
    }
  }

  private let tuners = Mutex<[String: OfTuner]>([:])

  public init() {}

  /// By tuner.
  public var all: [String: OfTuner] { tuners.withLock { $0 } }

  /// `seenAt`: nanoseconds of CLOCK_MONOTONIC.
  func count(_ outcome: Outcome, of tuner: String, _ tunable: Tunable, seenAt: UInt64) {
    tuners.withLock { tuners in
      switch outcome {
      case .applied(_, _, let time):
        tuners[tuner, default: OfTuner()].changes[tunable.pattern.name, default: 0] += 1
        tuners[tuner]?.latency.add(nanoseconds: time > seenAt ? time - seenAt : 0)
      case .advised:
        tuners[tuner, default: OfTuner()].advice[tunable.pattern.name, default: 0] += 1
      case .refused(let refusal):
        tuners[tuner, default: OfTuner()].refusals[refusal.kind, default: 0] += 1
      }
    }
  }
}

extension Refusal {
  /// Its kind, in one word.
  public var kind: String {
    switch self {
    case .administrator: "administrator"
    case .turnedOff: "disabled"
    case .stale: "stale"
    case .outOfBounds: "bounds"
    case .unavailable: "unavailable"
    case .namespaceGone: "gone"
    case .heldOut: "hold_out"
    case .setback: "setback"
    case .failed: "failed"
    }
  }
}

extension Tunable {
  /// What a tuner lists: of a device's tunable, the one with `*` for any device.
  public var pattern: Tunable {
    let all = tuners.lazy.flatMap { $0.tunables }
    return all.first { $0 == self } ?? all.first { $0.device(inPath: path) != nil } ?? self
  }
}
