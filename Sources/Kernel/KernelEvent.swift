import CShims
import Glibc

/// A record of the ring buffer, decoded: what a BPF program reported.
public struct KernelEvent: Sendable {
  public let source: UInt16
  public let scenario: UInt16
  public let namespace: NamespaceID
  /// Repeats since the last event of this scenario in this namespace that the
  /// kernel did not send.
  public let folded: UInt32
  /// Nanoseconds of CLOCK_MONOTONIC at which it happened.
  public let time: UInt64
  /// The process that ran at that time, where the event is about it; else 0.
  public let process: Int32
  public let payload: Payload

  public enum Payload: Sendable {
    /// The evidence; which number is which is up to the source.
    case values([Int64])
    case sysctlWrite(command: String, name: String, old: String, new: String)
  }

  /// Decodes a record. Nil when it has an unknown version or size: it is
  /// counted and skipped by the pump.
  init?(record: UnsafeRawBufferPointer, hasCookies: Bool) {
    guard record.count >= MemoryLayout<bpftune_event_header>.size else { return nil }
    let header = record.loadUnaligned(as: bpftune_event_header.self)
    guard header.version == BPFTUNE_EVENT_VERSION else { return nil }
    source = header.source
    scenario = header.scenario
    folded = header.folded
    time = header.ktime_ns
    process = Int32(truncatingIfNeeded: header.pid)
    namespace = NamespaceID(
      cookie: hasCookies ? header.netns_cookie : 0, inode: header.netns_inode)

    let body = UnsafeRawBufferPointer(
      rebasing: record[MemoryLayout<bpftune_event_header>.size...])
    switch record.count {
    case MemoryLayout<bpftune_event>.size:
      payload = .values(
        (0..<Int(BPFTUNE_EVENT_VALUES)).map {
          body.loadUnaligned(fromByteOffset: $0 * 8, as: Int64.self)
        })
    case MemoryLayout<bpftune_sysctl_event>.size:
      func text(at offset: Int?, _ size: Int32) -> String {
        let bytes = body[(offset ?? 0) - MemoryLayout<bpftune_event_header>.size..<body.count]
        return String(decoding: bytes.prefix(Int(size)).prefix { $0 != 0 }, as: UTF8.self)
      }
      typealias Layout = MemoryLayout<bpftune_sysctl_event>
      payload = .sysctlWrite(
        command: text(at: Layout.offset(of: \.comm), BPFTUNE_COMM),
        name: text(at: Layout.offset(of: \.name), BPFTUNE_SYSCTL_NAME),
        old: text(at: Layout.offset(of: \.old_value), BPFTUNE_SYSCTL_VALUE),
        new: text(at: Layout.offset(of: \.new_value), BPFTUNE_SYSCTL_VALUE))
    default:
      return nil
    }
  }

  /// How often the kernel's timer ticks in a second (CONFIG_HZ): what it counts in
  /// ticks is told so.
  static let ticksPerSecond: UInt32 = {
    var tick = timespec()
    guard clock_getres(CLOCK_MONOTONIC_COARSE, &tick) == 0, tick.tv_nsec > 0 else { return 0 }
    return UInt32(1_000_000_000 / tick.tv_nsec)
  }()

  /// Nanoseconds of CLOCK_MONOTONIC, as `bpf_ktime_get_ns()` gives them.
  public static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
}
