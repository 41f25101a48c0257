public import Kernel

/// What tcp-conn knows of a path, as `bpftune paths` shows it.
public struct TCPConnPath: Sendable, Equatable {
  /// What one algorithm has done there.
  public struct Arm: Sendable, Equatable {
    public let algorithm: String
    public let record: TCPConn.Record
    /// How many samples of 100 ms or more.
    public let evidence: Int64
  }

  public let namespace: NamespaceID
  /// `10.1.2.3`, or `10.1.2.0/24` behind a gateway.
  public let path: String
  /// What connections would have without the tuner, and what they get.
  public let original: String
  public let chosen: String
  /// What is being tried, if anything is.
  public let trial: String?
  /// Why it is chosen, or being tried.
  public let reason: TCPConn.Reason
  /// Microseconds: the shortest round trip.
  public let rttMin: Int64
  /// Segments of all connections, of those sent again, and with a mark of
  /// congestion; lately rather than ever.
  public let segments: Int64
  public let retransmitted: Int64
  public let marked: Int64
  public let connections: Int64
  public let switches: Int64
  /// Connections that got linear time-outs.
  public let thin: Int64
  /// Connections whose least time-out has been lowered; how often they sent something
  /// again, lately, and how often it had arrived.
  public let sooner: Int64
  public let again: Int64
  public let inVain: Int64
  /// Nanoseconds of the kernel's monotonic clock.
  public let lastSeen: UInt64
  /// Algorithms with evidence.
  public let arms: [Arm]

  private static let mapName = "tcp_conn_paths"

  /// The paths of the daemon that runs on this machine, the last seen first;
  /// nil when none runs tcp-conn. Needs root.
  public static func all() -> [TCPConnPath]? {
    let maps = BPFMap.all(named: mapName)
    guard !maps.isEmpty else { return nil }
    return living(
      maps.flatMap { $0.entries() }.compactMap { TCPConnPath(key: $0.key, value: $0.value) })
  }

  /// The last seen first, without those of a namespace whose number another
  /// one has by now.
  static func living(_ paths: [TCPConnPath]) -> [TCPConnPath] {
    var owners: [UInt32: UInt64] = [:]
    return paths.sorted { $0.lastSeen > $1.lastSeen }.filter { path in
      let owner = owners[path.namespace.inode] ?? path.namespace.cookie
      owners[path.namespace.inode] = owner
      return owner == path.namespace.cookie
    }
  }

  /// An entry of the map: `struct tcp_conn_key` and `struct tcp_conn_path` in
  /// bpf/tcp_conn.h. Nil when the sizes are others.
  init?(key: [UInt8], value: [UInt8]) {
    guard key.count == 32, value.count == 392 else { return nil }
    func number<T: FixedWidthInteger & BitwiseCopyable>(
      _ bytes: [UInt8], _ offset: Int, _ type: T.Type
    ) -> T {
      bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: type) }
    }
    func small(_ offset: Int) -> Int64 { Int64(number(value, offset, UInt32.self)) }
    func large(_ offset: Int) -> UInt64 { number(value, offset, UInt64.self) }

    namespace = NamespaceID(
      cookie: number(key, 0, UInt64.self), inode: number(key, 8, UInt32.self))
    path = TCPConn.path(
      PeerAddress(high: number(key, 16, Int64.self), low: number(key, 24, Int64.self)),
      prefix: Int64(number(key, 12, UInt32.self)))

    // Eight records of 32 bytes, then the name of the default.
    let ownName = String(decoding: value[256..<272].prefix { $0 != 0 }, as: UTF8.self)
    let own = Int64(value[356])
    func name(_ arm: UInt8) -> String {
      if Int64(arm) == own { return ownName }
      return TCPConn.Algorithm(rawValue: Int64(arm))?.name ?? "?"
    }
    original = ownName
    chosen = name(value[357])
    trial = value[358] < UInt8(TCPConn.Algorithm.allCases.count) ? name(value[358]) : nil
    reason = TCPConn.Reason(rawValue: Int64(value[trial == nil ? 360 : 361])) ?? .none
    lastSeen = large(272)
    segments = Int64(clamping: large(312))
    retransmitted = Int64(clamping: large(320))
    marked = Int64(clamping: large(328))
    rttMin = small(336)
    connections = small(344)
    switches = small(348)
    thin = small(352)
    sooner = small(364)
    again = small(368)
    inVain = small(372)
    arms = TCPConn.Algorithm.allCases.compactMap { algorithm in
      let record = Int(algorithm.rawValue) * 32
      let evidence = small(record + 24)
      guard evidence > 0 else { return nil }
      let sent = small(record + 16)
      return Arm(
        algorithm: name(UInt8(algorithm.rawValue)),
        record: TCPConn.Record(
          rate: small(record + 8), rtt: small(record + 12),
          loss: sent > 0 ? small(record + 20) * 1_000_000 / sent : 0),
        evidence: evidence)
    }
  }

  /// Of a million segments, how many were sent again.
  public var loss: Int64 { segments > 0 ? retransmitted * 1_000_000 / segments : 0 }

  /// Why it is so, in words.
  public var why: String {
    if let trial { return "trying \(trial): \(reason.words)" }
    return chosen == original ? "the default: \(TCPConn.Reason.none.words)" : reason.words
  }

  /// As a person reads it: a line for each path, one for each algorithm below.
  public static func table(_ paths: [TCPConnPath], now: UInt64) -> String {
    guard !paths.isEmpty else { return "no path is known yet\n" }
    var text = ""
    for path in paths {
      let age = (now &- path.lastSeen) / 1_000_000_000
      text +=
        "\(path.path) (\(path.namespace)): \(path.chosen): \(path.why)\n"
        + "  \(path.connections) connections, \(path.segments) segments,"
        + " \(Words.percent(ofMillion: path.loss)) lost, \(path.marked) marked; shortest round trip"
        + " \(Words.microseconds(path.rttMin)); last seen \(age) s ago\n"
      if path.sooner > 0 {
        text +=
          "  \(path.sooner) connections with time-outs from 50 ms on: sent again"
          + " \(path.again) times lately, \(path.inVain) of them in vain\n"
      }
      for arm in path.arms {
        text += "  \(arm.algorithm): \(arm.record.words) (\(arm.evidence) samples)\n"
      }
    }
    return text
  }
}
