import ArgumentParser
import FoundationEssentials
import Kernel
import Tuners

/// `bpftune paths`: what the running daemon knows of each path, read from its
/// BPF map.
struct Paths: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract:
      "Shows each path of TCP connections: what is known of it, which congestion control it gets, and why."
  )

  @Flag(name: .long, help: "Print JSON.")
  var json = false

  func run() throws {
    try exiting {
      if let failure = missingPrivilege() { throw failure }
      guard let paths = TCPConnPath.all() else {
        throw Failure("no daemon runs the tcp-conn tuner on this machine", exit: .failure)
      }
      if json {
        print(try Self.json(paths))
      } else {
        print(TCPConnPath.table(paths, now: KernelEvent.now()), terminator: "")
      }
    }
  }

  static func json(_ paths: [TCPConnPath]) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(paths.map(PathLine.init)), as: UTF8.self)
  }
}

/// A path in JSON: microseconds, kbit/s, and shares of one.
private struct PathLine: Encodable {
  /// Of connections whose least time-out has been lowered: how often they sent
  /// something again, and it had arrived.
  struct SoonerTimeouts: Encodable {
    let connections: Int64
    let sentAgain: Int64
    let inVain: Int64
  }

  struct Arm: Encodable {
    let algorithm: String
    let kilobitsPerSecond: Int64
    let roundTripMicroseconds: Int64
    let loss: Double
    let samples: Int64
  }

  let namespace: UInt32
  let namespaceCookie: UInt64
  let path: String
  let original: String
  let chosen: String
  let trial: String?
  let reason: String
  let why: String
  let shortestRoundTripMicroseconds: Int64
  let segments: Int64
  let retransmitted: Int64
  let marked: Int64
  let connections: Int64
  let switches: Int64
  let thin: Int64
  let soonerTimeouts: SoonerTimeouts
  let algorithms: [Arm]

  init(_ path: TCPConnPath) {
    namespace = path.namespace.inode
    namespaceCookie = path.namespace.cookie
    self.path = path.path
    original = path.original
    chosen = path.chosen
    trial = path.trial
    reason = "\(path.reason)"
    why = path.why
    shortestRoundTripMicroseconds = path.rttMin
    segments = path.segments
    retransmitted = path.retransmitted
    marked = path.marked
    connections = path.connections
    switches = path.switches
    thin = path.thin
    soonerTimeouts = SoonerTimeouts(
      connections: path.sooner, sentAgain: path.again, inVain: path.inVain)
    algorithms = path.arms.map {
      Arm(
        algorithm: $0.algorithm, kilobitsPerSecond: $0.record.rate,
        roundTripMicroseconds: $0.record.rtt, loss: Double($0.record.loss) / 1e6,
        samples: $0.evidence)
    }
  }
}
