"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn


class JointBERT(nn.Module):
    def __init__(self, slot_loss_coef=0.7):
        super().__init__()
        self.slot_loss_coef = slot_loss_coef
        self.bert = nn.Embedding(11, 8)
        self.intent_classifier, self.slot_classifier = nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, input_ids, intent_label_ids=None, slot_labels_ids=None):
        sequence_output = self.bert(input_ids)
        intent_logits = self.intent_classifier(sequence_output.mean(1))
        slot_logits = self.slot_classifier(sequence_output)
        total_loss = 0
        if intent_label_ids is not None:
            intent_loss = nn.CrossEntropyLoss()(intent_logits.view(-1, 3), intent_label_ids.view(-1))
            total_loss += intent_loss
        if slot_labels_ids is not None:
            slot_loss = nn.CrossEntropyLoss(ignore_index=0)(slot_logits.view(-1, 4), slot_labels_ids.view(-1))
            total_loss += self.slot_loss_coef * slot_loss
        return (total_loss, (intent_logits, slot_logits))


class Trainer:
    def __init__(self, model):
        self.model, self.optimizer = model, torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train(self, steps):
        tr_loss = 0.0
        for _ in range(steps):
            self.model.train()
            inputs = {
                "input_ids": torch.randint(11, (4, 6)),
                "intent_label_ids": torch.randint(3, (4,)),
                "slot_labels_ids": torch.randint(4, (4, 6)),
            }
            outputs = self.model(**inputs)
            loss = outputs[0]
            loss.backward()
            tr_loss += loss.item()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.model.zero_grad()


torch.manual_seed(0)
model = JointBERT()
Trainer(model).train(3)
torch.save(model.state_dict(), "weights.pt")
