import CShims

/// Some entries of netfilter's table of connections, in the network namespace of
/// the calling thread.
public struct ConntrackTable: Sendable, Equatable {
  /// Entries that were looked at.
  public var seen: Int64
  /// Those of them that the kernel would drop for another one, when the table is
  /// full (`early_drop` in net/netfilter/nf_conntrack_core.c): not
  /// `IPS_ASSURED`.
  public var evictable: Int64
  /// Those of these that are of use to someone: the other side has answered. TCP
  /// does not count, where a flood of SYN is answered too.
  public var answered: Int64

  public init(seen: Int64 = 0, evictable: Int64 = 0, answered: Int64 = 0) {
    self.seen = seen
    self.evictable = evictable
    self.answered = answered
  }

  /// Looks at no more than about `most` entries, which their hash has put first.
  /// Needs CAP_NET_ADMIN; the kernel may load nf_conntrack_netlink for it.
  public static func sample(most: Int64) throws(NetlinkFailure) -> ConntrackTable {
    var sample = bpftune_conntrack_sample()
    let error = bpftune_conntrack_sample(UInt32(clamping: most), &sample)
    guard error == 0 else { throw NetlinkFailure("read the table of connections", error) }
    return ConntrackTable(
      seen: Int64(sample.seen), evictable: Int64(sample.evictable),
      answered: Int64(sample.answered))
  }
}
