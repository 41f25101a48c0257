import CShims
import SystemPackage

/// Moves events from the ring buffer into the stream of their source.
///
/// It runs on the kernel loop when the ring buffer has data, and at no other
/// time. Streams are bounded: when a source falls behind, its oldest event is
/// dropped and counted.
public final class EventPump: @unchecked Sendable {
  // Safe: after `init` it is used on the kernel loop alone, by the handler below
  // and by actors whose executor is that loop.

  /// How many events a source can leave waiting: about as many as the ring
  /// buffer holds, so that what it took in one burst is not lost behind it.
  public static let streamCapacity = 1024

  /// What was lost or skipped since the start.
  public struct Losses: Sendable, Equatable, CustomStringConvertible {
    /// Found the ring buffer full.
    public var ringFull: UInt64 = 0
    /// Dropped, the oldest first, since their source fell behind.
    public var streamFull: UInt64 = 0
    /// Of an unknown layout or source.
    public var malformed: UInt64 = 0

    public var isEmpty: Bool { self == Losses() }

    public var description: String {
      "\(ringFull) to a full ring buffer, \(streamFull) to a full stream; \(malformed) malformed"
    }
  }

  private let programs: Programs
  private let hasCookies: Bool
  private var ring: OpaquePointer?
  private var sources: [UInt16: AsyncStream<KernelEvent>.Continuation] = [:]
  /// Sources that were let go of.
  private var gone: Set<UInt16> = []
  private var counted = Losses()
  private var reported = Losses()
  /// The losses so far, each time that they have grown.
  public let lossReports: AsyncStream<Losses>
  private let lossReport: AsyncStream<Losses>.Continuation
  /// Records taken in one go from which on the ring may have been full.
  private static let fullHouse = 256
  /// What a source has sent since the start: events, and repeats that the
  /// kernel folded into them.
  public struct Count: Sendable {
    public var events: UInt64 = 0
    public var folded: UInt64 = 0

    public init() {}
  }

  public private(set) var counts: [UInt16: Count] = [:]
  /// Events decoded since the start.
  public var received: UInt64 { counts.values.reduce(0) { $0 + $1.events } }

  public init(
    programs: Programs, directory: NamespaceDirectory, loop: KernelLoop
  ) throws(SystemCallFailure) {
    self.programs = programs
    hasCookies = directory.hasCookies
    (lossReports, lossReport) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
    let context = Unmanaged.passUnretained(self).toOpaque()
    ring = ring_buffer__new(
      programs.ring.fd,
      { context, data, size in
        guard let context, let data else { return 0 }
        Unmanaged<EventPump>.fromOpaque(context).takeUnretainedValue()
          .receive(UnsafeRawBufferPointer(start: data, count: size))
        return 0
      }, context, nil)
    guard ring != nil else { throw SystemCallFailure("ring_buffer__new", "") }
    // The map itself, not libbpf's epoll around it: one wake-up fewer.
    try loop.onReadable(programs.ring.fd) { [unowned self] in consume() }
  }

  deinit {
    ring_buffer__free(ring)
    lossReport.finish()
    for stream in sources.values { stream.finish() }
  }

  /// The events of one source, from now on; so many may wait.
  public func events(
    of source: UInt16, capacity: Int = streamCapacity
  ) -> AsyncStream<KernelEvent> {
    let (stream, continuation) = AsyncStream.makeStream(
      of: KernelEvent.self, bufferingPolicy: .bufferingNewest(capacity))
    sources[source] = continuation
    gone.remove(source)
    return stream
  }

  /// Lets go of a source, whose programs have been detached: what of its events
  /// is in the ring buffer still goes nowhere.
  public func forget(_ source: UInt16) {
    sources.removeValue(forKey: source)?.finish()
    gone.insert(source)
  }

  /// Ends every stream, once what is in them has been read.
  public func finish() {
    lossReport.finish()
    for stream in sources.values { stream.finish() }
  }

  public var losses: Losses {
    var losses = counted
    losses.ringFull = programs.lostEvents
    return losses
  }

  private func consume() {
    // A negative return is an error of the callback, and it returns none.
    let count = ring_buffer__consume(ring)
    if count >= Self.fullHouse {
      let lost = programs.lostEvents
      if lost > counted.ringFull {
        counted.ringFull = lost
        // What nobody may miss was kept beside the ring.
        for record in programs.takeMissedWrites() { record.withUnsafeBytes { receive($0) } }
      }
    }
    if counted != reported {
      reported = counted
      lossReport.yield(counted)
    }
  }

  private func receive(_ record: UnsafeRawBufferPointer) {
    guard let event = KernelEvent(record: record, hasCookies: hasCookies) else {
      counted.malformed += 1
      return
    }
    guard let stream = sources[event.source] else {
      if !gone.contains(event.source) { counted.malformed += 1 }
      return
    }
    counts[event.source, default: Count()].events += 1
    counts[event.source]?.folded += UInt64(event.folded)
    if case .dropped = stream.yield(event) { counted.streamFull += 1 }
  }
}
