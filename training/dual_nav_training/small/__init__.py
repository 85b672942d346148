"""The small planner: a Qwen2.5-VL of a few million parameters that learns its job in the simulator.

views.py      what the robot sees from many places, and what a planner should answer there for each object in view
drive.py      the places where a planner takes the robot, for views from there
language.py   its words: tokenizer, prompt template, instructions
questions.py  instruction and answer for a view
batches.py    views and questions as tensors
network.py    the network with the heads that exist in training only
objective.py  what is trained: the answers, and that image cells know what they show
train_s2.py   the command
recipe.py     all commands in order
score.py      right answers on views of flats not trained on
checkpoint.py the result as a folder that both nodes load
"""
