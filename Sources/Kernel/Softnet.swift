/// What each processor made of the packets that came to it, as
/// /proc/net/softnet_stat counts it (`softnet_seq_show` in
/// net/core/net-procfs.c). Counters are 32 bits wide and wrap.
public struct Softnet: Sendable, Equatable {
  public struct Processor: Sendable, Equatable {
    /// Its number.
    public var index: Int
    public var processed: UInt32
    /// Packets for this one, which its backlog had no room for.
    public var dropped: UInt32
    /// How often it had to stop with packets left, out of its budget.
    public var squeezed: UInt32
    /// Packets that this one dropped since their flow had more than its share.
    public var flowLimited: UInt32
    /// Packets in its backlog now.
    public var queued: Int

    public init(
      index: Int, processed: UInt32 = 0, dropped: UInt32 = 0, squeezed: UInt32 = 0,
      flowLimited: UInt32 = 0, queued: Int = 0
    ) {
      self.index = index
      self.processed = processed
      self.dropped = dropped
      self.squeezed = squeezed
      self.flowLimited = flowLimited
      self.queued = queued
    }
  }

  public var processors: [Processor]

  public init(processors: [Processor]) { self.processors = processors }

  /// Leaves out lines that are not of this form: none has been seen since 5.10.
  public init(parsing text: some StringProtocol) {
    processors = text.split(separator: "\n").compactMap { line in
      let numbers = line.split(separator: " ").compactMap { UInt32($0, radix: 16) }
      guard numbers.count >= 13 else { return nil }
      return Processor(
        index: Int(numbers[12]), processed: numbers[0], dropped: numbers[1], squeezed: numbers[2],
        flowLimited: numbers[10], queued: Int(numbers[11]))
    }
  }

  /// Reads it; throws what the system call says.
  public static func read() throws(SystemCallFailure) -> Softnet {
    let bytes = try contents(of: "/proc/net/softnet_stat")
    return Softnet(parsing: String(decoding: bytes, as: UTF8.self))
  }
}

/// How long tasks wait for processors (Documentation/accounting/psi.rst).
public enum Pressure {
  /// Microseconds, since the machine was started, in which some task waited for
  /// a processor; nil where the kernel does not count that.
  public static func processors() -> Int64? {
    guard let bytes = try? contents(of: "/proc/pressure/cpu") else { return nil }
    return total(in: String(decoding: bytes, as: UTF8.self))
  }

  /// Of the line that begins with `some`.
  static func total(in text: some StringProtocol) -> Int64? {
    text.split(separator: "\n").first { $0.hasPrefix("some ") }?
      .split(separator: " ").first { $0.hasPrefix("total=") }
      .flatMap { Int64($0.dropFirst(6)) }
  }
}
