"""Reading collectives off a compiled program."""

import pytest

from kanana_jax.plan import collectives

MESH = {"data": 2, "fsdp": 4}
HLO = """HloModule step

%body (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %r = f32[8]{0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
}

%fused (p: bf16[4]) -> bf16[16] {
  %p = bf16[4]{0} parameter(0)
  ROOT %g = bf16[16]{0} all-gather(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %w = f32[8]{0} while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %f = bf16[16]{0} fusion(%y), kind=kLoop, calls=%fused
  %s = f32[2]{0} reduce-scatter(%z), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, to_apply=%add
  %a = (f32[8]{0}, f32[8]{0}) all-reduce-start(%x), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  %d = f32[8]{0} all-reduce-done(%a)
  ROOT %q = f32[8]{0} collective-permute(%x), source_target_pairs={{0,4},{4,0}}
}
"""


def test_loops_fusions_and_every_form_of_groups_are_counted():
    assert collectives.traffic(HLO, MESH) == {
        ("all-reduce", "fsdp"): (5, 5 * 2 * 32 * 3 / 4),
        ("all-gather", "fsdp"): (1, 32 * 3 / 4),
        ("reduce-scatter", "fsdp"): (1, 8 * 3),
        ("all-reduce", "data"): (1, 2 * 32 / 2),
        ("collective-permute", "data"): (1, 32),
    }


def test_a_collective_stretched_over_fusions_is_counted_once():
    """As TPUs write it: every fusion of a chain repeats the collective with its channel."""
    plain = "all-gather(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}"
    chained = plain + ', channel_id=7, frontend_attributes={chain_id="1"}'
    again = "%fused.2 (p: bf16[4]) -> bf16[16] {\n" + HLO.split("%fused (", 1)[1].split("{\n", 1)[1]
    hlo = HLO.replace("ENTRY", again.split("ENTRY")[0] + "ENTRY", 1).replace(
        "  %s = ", "  %f2 = bf16[16]{0} fusion(%y), kind=kLoop, calls=%fused.2\n  %s = "
    )
    assert collectives.traffic(hlo, MESH)["all-gather", "fsdp"].count == 2
    hlo = hlo.replace(plain, chained)
    assert collectives.traffic(hlo, MESH) == collectives.traffic(HLO, MESH)


def test_a_collective_without_groups_is_refused():
    with pytest.raises(ValueError, match="expected a collective with its groups"):
        collectives.traffic(
            "ENTRY %m (x: f32[8]) -> f32[8] {\n  %r = f32[8] all-reduce(%x)\n}", MESH
        )


def test_a_loop_without_a_note_takes_its_length_from_its_condition():
    condition = """%c (p: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %n = s32[]{:T(128)} constant(5)
  ROOT %l = pred[] compare(%p, %n), direction=LT
}

"""
    note = ', backend_config={"known_trip_count":{"n":"5"}}'
    without = HLO.replace(note, "").replace("%body (", condition + "%body (", 1)
    assert collectives.traffic(without, MESH) == collectives.traffic(HLO, MESH)
    assert collectives.num_unknown_loops(without) == 0
    endless = without.replace("constant(5)", "parameter(1)")
    assert collectives.traffic(endless, MESH)["all-reduce", "fsdp"].count == 1
    assert collectives.num_unknown_loops(endless) == 1
