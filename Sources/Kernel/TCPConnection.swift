import CShims

/// The kernel's figures of a TCP connection (`struct tcp_info` in
/// include/uapi/linux/tcp.h).
public struct TCPConnection: Sendable, Equatable {
  /// Of the socket; never used again for another.
  public var cookie: UInt64
  public var peer: PeerAddress
  /// Bytes a second, as the sender measured it last.
  public var deliveryRate: Int64
  /// Bytes a second that the reader takes; 0 where that is not known, or the round
  /// trip is too short to divide by.
  public var receiveRate: Int64
  /// Microseconds, smoothed.
  public var rtt: Int64
  /// Segments with data that were sent, and those of them sent again.
  public var segments: Int64
  public var retransmits: Int64
  /// Bytes, both ways.
  public var bytes: Int64

  public init(
    cookie: UInt64, peer: PeerAddress, deliveryRate: Int64 = 0, receiveRate: Int64 = 0,
    rtt: Int64 = 0, segments: Int64 = 0, retransmits: Int64 = 0, bytes: Int64 = 0
  ) {
    self.cookie = cookie
    self.peer = peer
    self.deliveryRate = deliveryRate
    self.receiveRate = receiveRate
    self.rtt = rtt
    self.segments = segments
    self.retransmits = retransmits
    self.bytes = bytes
  }

  /// The established ones of the thread's namespace, at most `most` of each
  /// family: what is asked of the kernel is bounded, whatever the namespace holds.
  public static func all(most: Int = 512) throws(SystemCallFailure) -> [TCPConnection] {
    var found = [bpftune_tcp_connection](repeating: bpftune_tcp_connection(), count: 2 * most)
    let count = bpftune_tcp_connections(&found, Int32(most))
    guard count >= 0 else { throw SystemCallFailure("sock_diag", "TCP connections") }
    return found.prefix(Int(count)).map { TCPConnection($0) }
  }

  private init(_ raw: bpftune_tcp_connection) {
    let (high, low) = withUnsafeBytes(of: raw.peer) {
      ($0.load(as: Int64.self), $0.load(fromByteOffset: 8, as: Int64.self))
    }
    self.init(
      cookie: raw.cookie, peer: PeerAddress(high: high, low: low),
      deliveryRate: Int64(clamping: raw.delivery_rate),
      receiveRate: raw.receive_rtt < 1000
        ? 0 : Int64(raw.receive_space) * 1_000_000 / Int64(raw.receive_rtt),
      rtt: Int64(raw.rtt), segments: Int64(raw.data_segments), retransmits: Int64(raw.retransmits),
      bytes: Int64(clamping: raw.acknowledged) &+ Int64(clamping: raw.received))
  }
}
