// SPDX-License-Identifier: Apache-2.0
// igmp-sources: a tuner from outside, in Swift. Lets sockets filter as many
// sources of multicast as they ask for, where net.ipv4.igmp_max_msf refuses them.

private let limitName: StaticString = "net.ipv4.igmp_max_msf"
/// The kernel looks through a filter source by source.
private let most: Int64 = 4096

/// As the enum of igmp-sources.bpf.c has them.
private enum Value: Int {
  case limit
  case sources
}

/// Text that stays where it is.
private func text(_ text: StaticString) -> UnsafePointer<CChar> {
  UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
}

/// A list that stays where it is.
private func list<Element>(_ elements: Element...) -> UnsafePointer<Element> {
  let copy = UnsafeMutableBufferPointer<Element>.allocate(capacity: elements.count)
  _ = copy.initialize(from: elements)
  return UnsafePointer(copy.baseAddress!)
}

/// What to raise the limit to; nil when it is enough.
func wanted(limit: Int64, sources: Int64) -> Int64? {
  guard sources > limit, limit < most else { return nil }
  // The next power of two, so that a filter that grows does not ask each time.
  var wanted: Int64 = 16
  while wanted < min(sources, most) { wanted *= 2 }
  return wanted
}

private func event(
  _ seen: UnsafePointer<bpftune_observation>?, _ reply: UnsafePointer<bpftune_reply>?
) {
  guard let seen, let reply else { return }
  let (limit, sources) = withUnsafeBytes(of: seen.pointee.values) { values in
    (
      values.load(fromByteOffset: Value.limit.rawValue * 8, as: Int64.self),
      values.load(fromByteOffset: Value.sources.rawValue * 8, as: Int64.self)
    )
  }
  guard let wanted = wanted(limit: limit, sources: sources) else {
    return reply.pointee.leave(reply, "the limit is as high as it goes")
  }
  let reason =
    "refused a socket its filter of \(sources) multicast sources, since \(limit) are allowed"
  reason.withCString { reason in
    var adjustment = bpftune_adjustment(
      tunable: 0, scenario: seen.pointee.scenario, assumed: limit, wanted: wanted, reason: reason)
    reply.pointee.adjust(reply, &adjustment)
  }
}

/// Made once; the pointers in it stay valid.
private nonisolated(unsafe) let tuner: UnsafePointer<bpftune_tuner> = {
  let tunables = list(
    bpftune_tunable(
      name: text(limitName), arity: BPFTUNE_SCALAR, scope: BPFTUNE_PER_NAMESPACE, minimum: 0,
      maximum: most))
  var signals = (bpftune_signal(), bpftune_signal())
  signals.0.name = text("filter is set")
  signals.0.programs.0 = text("filter_set")
  signals.1.name = text("filter refused")
  signals.1.programs.0 = text("filter_was_set")
  var tuner: bpftune_tuner = .init()
  tuner.abi = UInt32(BPFTUNE_TUNER_ABI)
  tuner.scope = BPFTUNE_PER_NAMESPACE
  tuner.name = text("igmp-sources")
  tuner.description = text("lets sockets filter the multicast sources that they need")
  tuner.tunables = tunables
  tuner.tunable_count = 1
  tuner.scenarios = list(text("need to allow more multicast sources"))
  tuner.scenario_count = 1
  tuner.signals = list(signals.0, signals.1)
  tuner.signal_count = 2
  tuner.object = igmp_sources_object_start()
  tuner.object_size = igmp_sources_object_size()
  tuner.event = event
  return list(tuner)
}()

@_cdecl("bpftune_tuner")
public func bpftuneTuner() -> UnsafePointer<bpftune_tuner> { tuner }
