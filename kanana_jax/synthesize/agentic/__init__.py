"""Conversations of agents with tools, made through endpoints and judged by what they did.

    topic -> specification -> agent -> goal -> words and rubric -> conversation -> judged, kept

A model writes specifications of tools, system prompts, users' words and the conversation. Code runs
the tools (`kanana_jax.rollouts.environments.tables`), draws the goal by running calls, and says
whether a conversation reached it. Nothing that a model wrote is executed. The pipeline is that of
Kimi K2 (arXiv:2507.20534, sec. 3.1.1), with the goal in the hands of code.
"""
